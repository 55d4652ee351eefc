"""Each loss of Keras, with labels of each shape and type, is what Keras computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.tensorflow.objective.outputs import Objective
from trackside.trainer.tensorflow.objective.sums import mean_of_sums, summed

L = keras.losses
GENERATOR = np.random.default_rng(0)
N = 20
FLOATS = GENERATOR.random(N).astype("float32") + 0.1
BITS = GENERATOR.integers(0, 2, N)
CLASSES = GENERATOR.integers(0, 3, N)
ONE_HOT = np.eye(3)[CLASSES]
ONE = tf.constant(GENERATOR.random((N, 1)).astype("float32"))
THREE = tf.nn.softmax(GENERATOR.normal(size=(N, 3)).astype("float32"))

OF_FLOATS = [FLOATS, FLOATS[:, None], BITS, BITS[:, None], FLOATS.astype("float64")]
OF_BITS = [BITS, BITS[:, None], BITS.astype("float32"), BITS.astype(bool), BITS.astype("uint8")]
OF_CLASSES = [CLASSES, CLASSES[:, None], CLASSES.astype("float32"), CLASSES.astype("uint8"), CLASSES.astype("int8")]
OF_VECTORS = [ONE_HOT, ONE_HOT.astype("int64"), ONE_HOT.astype("float32"), ONE_HOT.astype(bool)]


def own(labels, outputs):
    return tf.reduce_mean(tf.square(labels - outputs), axis=-1)


def own_mean(labels, outputs):
    return tf.reduce_mean(tf.abs(labels - outputs))


class Own(L.Loss):
    def call(self, labels, outputs):
        return own(labels, outputs)


class Reduces(L.Loss):
    def __call__(self, labels, outputs, sample_weight=None):
        return tf.reduce_max(tf.square(tf.cast(labels, tf.float32) - outputs))


NUMBERS = [
    *("mse", "mae", "mape", "msle", "huber", "log_cosh", "poisson", "kl_divergence", "cosine_similarity", "hinge"),
    *("squared_hinge", L.mean_squared_error, L.log_cosh, L.Huber(0.5), L.MeanSquaredError(reduction="sum")),
    *(L.MeanSquaredError(reduction=None), L.MeanAbsoluteError(reduction="mean_with_sample_weight")),
    *(L.MeanAbsolutePercentageError(), L.Poisson(), L.MeanSquaredLogarithmicError(), own, own_mean, Own(), Reduces()),
]
BINARY = [
    *("binary_crossentropy", "binary_focal_crossentropy", "crossentropy", L.binary_crossentropy),
    *(L.BinaryCrossentropy(label_smoothing=0.1), L.BinaryFocalCrossentropy()),
]
SPARSE = [
    *("sparse_categorical_crossentropy", L.SparseCategoricalCrossentropy(), L.sparse_categorical_crossentropy),
    *(L.SparseCategoricalCrossentropy(ignore_class=1), L.SparseCategoricalCrossentropy(reduction="sum")),
]
VECTORS = [
    *("categorical_crossentropy", "categorical_focal_crossentropy", L.CategoricalCrossentropy(label_smoothing=0.1)),
    *(L.CategoricalHinge(), L.Dice(), L.Tversky(), L.KLDivergence(), L.CosineSimilarity()),
]
CASES = [
    *((loss, labels, ONE) for loss in NUMBERS for labels in OF_FLOATS),
    *((loss, labels, ONE) for loss in BINARY for labels in OF_BITS),
    *((loss, labels, THREE) for loss in SPARSE for labels in OF_CLASSES),
    *((loss, labels, THREE) for loss in VECTORS for labels in OF_VECTORS),
]


def name_of(value):
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def of_keras(loss, labels, outputs, sample_weight=None):
    """Return what a compiled model computes, whose outputs these are."""
    model = keras.Model()
    model.compile(loss=loss)
    return float(tf.reduce_mean(model.compute_loss(None, labels, outputs, sample_weight)))


def of_trackside(loss, labels, outputs, sample_weight=None):
    sums = summed(Objective(loss).items(labels, outputs, sample_weight, tf.constant(N)), tf.constant(float(N)))
    return float(mean_of_sums(sums.totals[0], sums.weights[0], sums.reductions))


@pytest.mark.parametrize(("loss", "labels", "outputs"), CASES, ids=name_of)
def test_a_loss_is_that_of_keras(loss, labels, outputs):
    labels = tf.constant(labels)

    assert of_trackside(loss, labels, outputs) == pytest.approx(of_keras(loss, labels, outputs), rel=1e-6)


@pytest.mark.parametrize("loss", ["mse", L.MeanAbsoluteError(reduction="mean_with_sample_weight"), "sum"], ids=name_of)
@pytest.mark.parametrize("shape", [(N,), (N, 1)])
def test_sample_weights_count_as_in_keras(loss, shape):
    loss = L.MeanSquaredError(reduction="sum") if loss == "sum" else loss
    weights = tf.constant(GENERATOR.integers(0, 4, shape).astype("float32"))
    labels = tf.constant(FLOATS[:, None])

    assert of_trackside(loss, labels, ONE, weights) == pytest.approx(of_keras(loss, labels, ONE, weights), rel=1e-6)


@pytest.mark.parametrize("weights", [None, (4, 5), (4,)])
@pytest.mark.parametrize("ignored", [None, 2])
def test_a_mask_leaves_steps_out_as_in_keras(weights, ignored):
    outputs = tf.constant(GENERATOR.normal(size=(4, 5, 3)).astype("float32"))
    outputs._keras_mask = tf.constant(GENERATOR.integers(0, 2, (4, 5)).astype(bool))
    labels = tf.constant(GENERATOR.integers(0, 3, (4, 5)))
    loss = L.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)
    given = None if weights is None else tf.constant(GENERATOR.random(weights).astype("float32"))
    spread = None if given is None else given if given.shape.rank == 2 else tf.repeat(given[:, None], 5, 1)

    found = Objective(loss).items(labels, outputs, given, tf.constant(4))[0]

    assert float(found.total / found.weight) == pytest.approx(of_keras(loss, labels, outputs, spread), rel=1e-6)


# -- labels that are -100 ---------------------------------------------------------------------------------------------


def test_minus_100_is_an_ignored_label_of_a_class():
    labels = np.where(np.arange(N) % 3 == 0, -100, CLASSES)
    own_function = keras.losses.sparse_categorical_crossentropy

    for loss in (L.SparseCategoricalCrossentropy(), lambda t, p: own_function(t, p)):
        found = of_trackside(loss, tf.constant(labels), THREE)
        assert found == pytest.approx(
            of_keras("sparse_categorical_crossentropy", labels[labels >= 0], THREE[labels >= 0])
        )


@pytest.mark.parametrize("shape", [(4, 1), (4, 3)])
@pytest.mark.parametrize("loss", ["mse", own])
def test_minus_100_is_a_value_of_a_regression(loss, shape):
    labels = tf.constant(np.full(shape, 50, "int16") - np.eye(*shape, dtype="int16") * 150)

    found = Objective(loss).items(labels, tf.zeros(shape), None, tf.constant(4))[0]

    assert float(found.total) == pytest.approx(4 * float(tf.reduce_mean(tf.square(tf.cast(labels, tf.float32)))))


def test_minus_100_in_a_loss_that_cannot_leave_it_out_is_an_error():
    def mean(labels, outputs):
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, outputs))

    with pytest.raises((TracksideValueError, tf.errors.InvalidArgumentError), match="a label value of -100"):
        of_trackside(mean, tf.constant([-100, *CLASSES[1:]]), THREE)
