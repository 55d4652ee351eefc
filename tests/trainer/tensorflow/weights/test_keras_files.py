"""The `.keras` file that save_model leaves is loaded by plain Keras, and what prevents that is named."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support.arrays import classified
from support.tf_models import LOSS, mlp, weights_of

layers, registered = keras.layers, keras.saving.register_keras_serializable
X, Y = classified(20)
STEPS = {"max_steps": 2, "learning_rate": 0.05}


@registered("exported")
class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, values):
        return values * self.factor


@registered("exported")
class Registered(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.scale, self.dense = Scale(), layers.Dense(3)

    def call(self, values):
        return self.dense(self.scale(values))


class Unregistered(Registered):
    """A model that Keras does not know by name."""


class Doubles(layers.Layer):
    def call(self, values):
        return 2 * values


class NotDescribed(layers.Layer):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, values):
        return self.function(values)


def functional():
    inputs = keras.Input((6,))
    return keras.Model(inputs, layers.Dense(3)(layers.BatchNormalization()(Scale()(inputs))))


def sequential(*inside):
    return keras.Sequential([keras.Input((6,)), *inside, layers.Dense(3)])


@pytest.mark.parametrize("make", [functional, Registered, mlp])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_plain_keras_loads_the_trained_model_and_the_folder_still_loads_here(
    make_trainer, tmp_path, caplog, make, is_compiled
):
    model = make()
    if is_compiled:
        model.compile("adam", LOSS, metrics=["accuracy"])
    trainer = make_trainer(model=model, loss_fn=None if is_compiled else LOSS, eval_dataset=(X, Y), **STEPS)
    trainer.train()

    trainer.save_model(tmp_path / "saved")

    loaded = keras.models.load_model(tmp_path / "saved" / "model.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), trainer.predict((X,)).predictions, atol=1e-6)
    if is_compiled:
        found = loaded.evaluate(X, Y, batch_size=20, verbose=0, return_dict=True)
        assert found["accuracy"] == pytest.approx(trainer.evaluate()["eval_accuracy"])
        loaded.fit(X, Y, verbose=0)
    assert (tmp_path / "saved" / "model.weights.h5").exists()
    assert "custom_objects" not in caplog.text


def test_objects_that_are_not_registered_are_named_and_load_as_custom_objects(make_trainer, tmp_path, caplog):
    def own_loss(labels, outputs):
        return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)

    model = sequential(Doubles())
    model.compile(loss=own_loss)
    trainer = make_trainer(model=model, loss_fn=None, **STEPS)

    trainer.save_model(tmp_path / "saved")

    assert "needs custom_objects={'Doubles': Doubles, 'own_loss': own_loss}" in caplog.text
    objects = {"Doubles": Doubles, "own_loss": own_loss}
    loaded = keras.models.load_model(tmp_path / "saved" / "model.keras", custom_objects=objects)
    np.testing.assert_array_equal(weights_of(loaded), weights_of(model))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Unregistered, "needs custom_objects={'Unregistered': Unregistered}"),
        (lambda: sequential(layers.Lambda(lambda v: 2 * v)), "has a lambda, which keras.models.load_model runs only"),
        (
            lambda: sequential(NotDescribed(abs)),
            "is not written, only the weights are: Keras cannot describe Sequential",
        ),
    ],
    ids=["class", "lambda", "no configuration"],
)
def test_what_keeps_keras_from_loading_the_file_is_told(make_trainer, tmp_path, caplog, make, told):
    trainer = make_trainer(model=make(), **STEPS)
    trainer.train()

    trainer.save_model(tmp_path / "saved")

    assert told in caplog.text
    assert (tmp_path / "saved" / "model.weights.h5").exists()
    if "NotDescribed" in caplog.text:
        assert not (tmp_path / "saved" / "model.keras").exists()
