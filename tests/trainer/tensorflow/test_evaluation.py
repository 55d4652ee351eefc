"""What an evaluation collects is what the model returns: other numbers of rows, ragged and low-precision outputs."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified
from support.tf_models import LOSS, mlp

from trackside import TFTrainer, TFTrainingArguments


class Returns(keras.Model):
    """Returns what a function makes of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def call(self, x: Any) -> Any:
        return self.make(x)


def predict(make: Any, tmp_path: Any, **args: Any) -> Any:
    arguments = TFTrainingArguments(str(tmp_path), per_device_eval_batch_size=4, disable_tqdm=True, **args)
    data = np.arange(20, dtype=np.float32).reshape(10, 2)
    return TFTrainer(Returns(make), arguments).predict(data).predictions


def test_predictions_keep_rows_that_are_no_examples(tmp_path: Any) -> None:
    views, total = predict(lambda x: (tf.repeat(x, 3, axis=0), tf.reduce_sum(x)), tmp_path)

    assert views[::3].tolist() == views[2::3].tolist() == np.arange(20).reshape(10, 2).tolist()
    assert total.tolist() == [28, 92, 70]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: tf.cast(x, tf.uint8), "uint8"),
        (lambda x: tf.cast(x, tf.bfloat16), "float32"),
        (lambda x: tf.cast(x, tf.float16), "float32"),
        (lambda x: x > 5, "bool"),
    ],
)
def test_predictions_keep_their_type_and_low_precision_is_float32(make: Any, expected: str, tmp_path: Any) -> None:
    predictions = predict(make, tmp_path)

    assert predictions.dtype == expected
    assert predictions.shape == (10, 2)


def test_ragged_outputs_are_padded(tmp_path: Any) -> None:
    def make(x: Any) -> Any:
        lengths = tf.pad(tf.ones_like(x[:-1, 0], tf.int32), [[0, 1]], constant_values=2)
        return tf.RaggedTensor.from_row_lengths(tf.ones(tf.shape(x)[0] + 1), lengths)

    predictions = predict(make, tmp_path)

    assert predictions.tolist() == [[1, 1] if i in (3, 7, 9) else [1, -100] for i in range(10)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"loss": "mse"}, {"loss": "mae"}),
        ({"loss": "mse", "loss_weights": [1.0]}, {"loss": "mse", "loss_weights": [0.5]}),
        ({"loss": "mse"}, {"loss": keras.losses.MeanSquaredError(reduction="sum")}),
        ({"loss": "mse", "metrics": ["mae"]}, {"loss": "mae", "metrics": ["mse"]}),
    ],
    ids=["loss", "weight", "reduction", "metrics"],
)
def test_a_model_that_is_compiled_anew_is_evaluated_by_its_new_loss(make_trainer, first, second):
    features, labels = np.random.default_rng(0).normal(size=(8, 6)).astype("float32"), np.ones((8, 1), "float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    trainer = make_trainer(model=model, loss_fn=None)
    for options in (first, second, first):
        model.compile(**options)

        metrics = trainer.evaluate((features, labels))

        for name, value in model.evaluate(features, labels, verbose=0, return_dict=True).items():
            assert metrics[f"eval_{name}"] == pytest.approx(value, rel=1e-5)


class Scaled(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.scale = keras.layers.Dense(1), 1.0

    def call(self, features):
        return self.dense(features) * self.scale


CHANGES = {
    "new variables": lambda model: model.dense.enable_lora(2),
    "other variables": lambda model: model.dense.quantize("int8"),
    "an attribute": lambda model: setattr(model, "scale", 2.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_evaluation_after_a_run_is_of_the_model_as_it_was_trained(make_trainer, change):
    features, labels = np.random.default_rng(0).normal(size=(8, 6)).astype("float32"), np.ones((8, 1), "float32")
    model = Scaled()
    model(features)
    trainer = make_trainer(model=model, loss_fn="mse", train_dataset=(features, labels), max_steps=3, learning_rate=0.1)
    trainer.evaluate((features, labels))
    CHANGES[change](model)
    if change != "other variables":  # an int8 kernel is not trained
        trainer.train()

    metrics = trainer.evaluate((features, labels))

    assert metrics["eval_loss"] == pytest.approx(float(np.mean((np.asarray(model(features)) - 1.0) ** 2)), rel=1e-5)


def test_an_evaluation_is_that_of_the_newest_model_and_none_before_it_is_kept(make_trainer):
    features, labels = classified(8)
    trainer = make_trainer(model_init=mlp, max_steps=1, train_dataset=(features, labels))
    models = []
    for _ in range(4):
        trainer.train()
        models.append(weakref.ref(trainer.model))

        right = float(LOSS(labels, trainer.model(features)))
        assert trainer.evaluate((features, labels))["eval_loss"] == pytest.approx(right, rel=1e-5)
    gc.collect()

    assert [model() is not None for model in models] == [False, False, False, True]
