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
NO_LOSSES = ("get", "serialize", "deserialize", "loss")
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


OF_KERAS = {  # the outputs that each loss of Keras takes, and its labels, by the name of its class
    **dict.fromkeys(("BinaryCrossentropy", "BinaryFocalCrossentropy"), (ONE, OF_BITS)),
    **dict.fromkeys(("Huber", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError"), (ONE, OF_FLOATS)),
    **dict.fromkeys(("MeanSquaredError", "MeanSquaredLogarithmicError", "Poisson"), (ONE, OF_FLOATS)),
    **dict.fromkeys(("Hinge", "SquaredHinge"), (ONE, OF_FLOATS)),
    **dict.fromkeys(("SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy"), (THREE, OF_CLASSES)),
    **dict.fromkeys(("CategoricalCrossentropy", "CategoricalFocalCrossentropy"), (THREE, OF_VECTORS)),
    **dict.fromkeys(("CategoricalHinge", "Dice", "Tversky"), (THREE, OF_VECTORS)),
    **dict.fromkeys(("KLDivergence", "CosineSimilarity"), (THREE, [*OF_VECTORS, FLOATS[:, None] * ONE_HOT])),
    "Circle": (tf.math.l2_normalize(THREE, axis=-1), [CLASSES, CLASSES[:, None], CLASSES.astype("uint8")]),
    "CTC": (tf.constant(GENERATOR.random((N, 6, 4)).astype("float32")), [CLASSES[:, None] + [0, 1], ONE_HOT + 1.0]),
}
FUNCTIONS = {name.replace("_", ""): name for name in dir(L) if name[0].islower() and name not in NO_LOSSES}
FORMS = {
    "name": lambda name: FUNCTIONS[name.lower()],
    "name of the class": lambda name: name,
    "function": lambda name: getattr(L, FUNCTIONS[name.lower()]),
    "instance": lambda name: getattr(L, name)(),
}
EVERY = [(name, form) for name in OF_KERAS for form in FORMS]
UNNAMED = "CategoricalGeneralizedCrossEntropy"  # Keras does not know its name, and its function has a parameter
EVERY = [(name, form) for name, form in EVERY if name != UNNAMED or form == "instance"]
NUMBERS = [L.Huber(0.5), L.MeanSquaredError(reduction="sum"), L.MeanSquaredError(reduction=None), Own(), Reduces()]
NUMBERS += [L.MeanAbsoluteError(reduction="mean_with_sample_weight"), own, own_mean]
SPARSE = [L.SparseCategoricalCrossentropy(ignore_class=1), L.SparseCategoricalCrossentropy(reduction="sum")]
OTHERS = [
    *((loss, ONE, OF_FLOATS) for loss in NUMBERS),
    *((loss, ONE, OF_BITS) for loss in ("crossentropy", L.BinaryCrossentropy(label_smoothing=0.1))),
    *((loss, THREE, OF_CLASSES) for loss in SPARSE),
    (L.CategoricalCrossentropy(label_smoothing=0.1), THREE, OF_VECTORS),
]


def name_of(value):
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


def of_keras(loss, labels, outputs, sample_weight=None):
    """Return what a compiled model computes, whose outputs these are."""
    model = keras.Model()
    model.compile(loss=loss)
    return float(tf.reduce_mean(model.compute_loss(None, labels, outputs, sample_weight)))


def of_trackside(loss, labels, outputs, sample_weight=None):
    sums = summed(Objective(loss).items(labels, outputs, sample_weight, tf.constant(N)), tf.constant(float(N)))
    return float(mean_of_sums(sums.totals[0], sums.weights[0], sums.reductions))


def check(loss, outputs, labels):
    for given in map(tf.constant, labels):
        wanted = of_keras(loss, given, outputs)
        assert of_trackside(loss, given, outputs) == pytest.approx(wanted, rel=1e-6), given.dtype


@pytest.mark.parametrize(("name", "form"), EVERY)
def test_every_loss_of_keras_is_that_of_keras(name, form):
    check(FORMS[form](name), *OF_KERAS[name])


def test_these_are_all_losses_of_keras():
    classes = {name for name in dir(L) if isinstance(getattr(L, name), type)} - {"Loss"}

    assert set(OF_KERAS) == classes
    assert set(FUNCTIONS) == {name.lower() for name in classes}


@pytest.mark.parametrize(("loss", "outputs", "labels"), OTHERS, ids=name_of)
def test_other_reductions_and_losses_of_the_user_are_those_of_keras(loss, outputs, labels):
    check(loss, outputs, labels)


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
