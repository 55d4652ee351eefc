"""TFTrainer: every kind of model and data, and its optimizers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import LOSS, mlp, weights_of

from trackside.callbacks.errors import ArgumentError

layers = keras.layers


class WithLabels(keras.Model):
    """Called with labels, it returns (loss, logits)."""

    def __init__(self, mean=False):
        super().__init__()
        self.dense, self.mean = layers.Dense(3, kernel_initializer="zeros"), mean

    def call(self, features, labels=None, training=False):
        logits = self.dense(features["x"])
        if labels is None:
            return logits
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return (tf.reduce_mean(losses) if self.mean else losses), logits


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, first, second):
        return self.dense(first) + self.dense(second)


def functional():
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((6,), name="b")}
    return keras.Model(inputs, layers.Dense(3)(inputs["a"] + inputs["b"]))


def falls(trainer):
    losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return losses[-1] < losses[0]


# -- models and data --------------------------------------------------------------------------------------------------


def on_probabilities():
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input((6,)), layers.Dense(16, activation="relu"), layers.Dense(3, "softmax")])


COMPILED = {
    "an instance": (mlp, LOSS),
    "a name": (on_probabilities, "sparse_categorical_crossentropy"),
    "a function": (on_probabilities, keras.losses.sparse_categorical_crossentropy),
    "one of ones own": (mlp, lambda labels, logits: LOSS.call(labels, logits)),
}


@pytest.mark.parametrize("kind", COMPILED)
def test_a_compiled_loss_is_enough(make_trainer, kind):
    make_model, loss = COMPILED[kind]
    model = make_model()
    model.compile(loss=loss)
    trainer = make_trainer(model=model, loss_fn=None, learning_rate=0.01, logging_steps=5, eval_dataset=classified(9))

    trainer.train()

    assert falls(trainer)
    outputs = trainer.predict(classified(9)).predictions
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(np.mean(loss_of(loss, outputs))), rel=1e-5)


def loss_of(loss, outputs):
    labels = classified(9)[1]
    return keras.losses.get(loss)(labels, outputs) if isinstance(loss, str) else loss(labels, outputs)


def test_a_compiled_list_of_losses_goes_with_a_list_of_outputs(make_trainer):
    features, labels = classified(23)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(1)(inputs)])
    model.compile(loss=[LOSS, "mse"], loss_weights=[1.0, 0.5])
    data = features, (labels, features[:, :1])
    trainer = make_trainer(model=model, train_dataset=data, eval_dataset=data, loss_fn=None, max_steps=2)

    trainer.train()
    classes, sizes = trainer.predict(data).predictions

    expected = float(LOSS(labels, classes)) + 0.5 * float(np.mean((sizes - features[:, :1]) ** 2))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mean", [False, True])
def test_a_model_that_returns_its_loss_is_called_with_labels(make_trainer, mean):
    features, labels = classified(40)
    data = {"x": features}, labels
    trainer = make_trainer(
        model=WithLabels(mean), train_dataset=data, eval_dataset=data, loss_fn=None, learning_rate=0.1, logging_steps=5
    )

    trainer.train()

    assert falls(trainer)
    assert trainer.predict(data).predictions.shape == (40, 3)
    assert trainer.predict(({"x": features},)).predictions.shape == (40, 3)


@pytest.mark.parametrize("form", ["arrays", "tensors", "tf.data"])
@pytest.mark.parametrize("model", [mlp, functional, TwoInputs])
def test_features_are_one_tensor_tuples_or_dicts_in_every_form(make_trainer, model, form):
    features, labels = classified(21)
    given = {mlp: features, functional: {"a": features, "b": features}, TwoInputs: (features, features)}[model]
    data = given, labels
    if form == "tensors":
        data = tf.nest.map_structure(tf.constant, data)
    elif form == "tf.data":
        data = tf.data.Dataset.from_tensor_slices(data)
    trainer = make_trainer(model=model(), train_dataset=data, learning_rate=0.1, num_train_epochs=5, logging_steps=3)

    trainer.train()

    assert falls(trainer)
    assert trainer.predict(data).predictions.shape == (21, 3)


def test_labels_may_be_among_the_features_as_in_datasets_of_transformers(make_trainer):
    features, labels = classified(21)
    inputs = {"a": features, "b": features}
    apart = make_trainer(model=functional(), eval_dataset=(inputs, labels))
    among = make_trainer(model=apart.model, eval_dataset={**inputs, "labels": labels})

    assert among.evaluate()["eval_loss"] == apart.evaluate()["eval_loss"]


@pytest.mark.parametrize("known", [True, False])
def test_a_tf_data_dataset_of_known_or_unknown_cardinality(make_trainer, known):
    data = tf.data.Dataset.from_tensor_slices(classified(21))
    if not known:
        data = data.filter(lambda features, label: True)
    trainer = make_trainer(train_dataset=data, eval_dataset=data, max_steps=7, compute_metrics=rows)

    trainer.train()

    assert trainer.state.global_step == 7  # three batches an epoch, and begun again where the end came
    assert trainer.evaluate()["eval_rows"] == 21


def rows(prediction):
    return {"rows": float(len(prediction.label_ids))}


def test_training_without_a_length_needs_max_steps(make_trainer):
    data = tf.data.Dataset.from_tensor_slices(classified(21)).repeat()

    with pytest.raises(ArgumentError, match="max_steps"):
        make_trainer(train_dataset=data).train()


def test_labels_of_minus_100_do_not_count(make_trainer):
    features, labels = classified(24)
    ignored = labels.copy()
    ignored[::3] = -100
    kept = ignored != -100
    options = {"learning_rate": 0.1, "optim": "sgd", "num_train_epochs": 1, "per_device_train_batch_size": 100}

    some = make_trainer(train_dataset=(features, ignored), **options)
    few = make_trainer(train_dataset=(features[kept], labels[kept]), **options)
    some.train()
    few.train()

    np.testing.assert_allclose(weights_of(some.model), weights_of(few.model), atol=1e-6)
    metrics = some.evaluate((features, ignored))
    assert metrics["eval_loss"] == pytest.approx(some.evaluate((features[kept], labels[kept]))["eval_loss"], rel=1e-5)


# -- optimizer and schedule ------------------------------------------------------------------------------------------


def test_a_given_optimizer_and_schedule_are_used(make_trainer):
    optimizer = keras.optimizers.SGD(0.5)
    trainer = make_trainer(optimizers=(optimizer, lambda step: 0.1 / (step + 1)), max_steps=3, logging_steps=1)

    trainer.train()

    assert trainer.optimizer is optimizer
    rates = [record["learning_rate"] for record in trainer.state.log_history if "learning_rate" in record]
    assert rates == [0.1, 0.1 / 2, 0.1 / 3]


def test_a_schedule_of_keras_stays_with_its_optimizer(make_trainer):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25])
    trainer = make_trainer(optimizers=(keras.optimizers.SGD(schedule), None), max_steps=3, logging_steps=1)

    trainer.train()

    assert trainer.lr_scheduler is None
    assert trainer.state.log_history[2]["learning_rate"] == 0.25


def test_an_unknown_optimizer_option_names_the_nearest(make_trainer):
    with pytest.raises(ArgumentError, match="Did you mean 'momentum'"):
        make_trainer(optim="sgd", optim_args="momentun=0.9").train()


@pytest.mark.parametrize("name", ["adafactor", "lion", "adagrad", "rmsprop"])
def test_optimizers_by_name_train(make_trainer, name):
    trainer = make_trainer(optim=name, learning_rate=0.01, num_train_epochs=4, logging_steps=5)

    trainer.train()

    assert falls(trainer)
