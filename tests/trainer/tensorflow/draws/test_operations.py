"""Random operations and those that replace them: the same shapes, types, distributions and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trackside.trainer.tensorflow.distributed.strategy import SingleProcess
from trackside.trainer.tensorflow.draws.operations import DRAWN_BY, drawing_operations
from trackside.trainer.tensorflow.draws.state import Draws

STRATEGY = SingleProcess(tf.distribute.get_strategy())
COUNT = 20_000
LOGITS = np.log([[0.1, 0.2, 0.7], [0.5, 0.0001, 0.4999]]).astype(np.float32)


def traced(function, *, xla=False, **options):
    """Return a function as a step is traced: each call is a micro-batch."""
    draws = Draws()
    draws.seed(3)

    def micro_batch(*args):
        with draws.micro_batch():
            return function(*args)

    compiled = tf.function(micro_batch, autograph=False, jit_compile=xla, **options)
    with draws.replacing(STRATEGY):
        assert drawing_operations(compiled.get_concrete_function().graph) == []
    return compiled


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize(
    ("draw", "mean", "variance", "low", "high"),
    [
        (lambda: tf.random.normal([COUNT], 1.0, 2.0), 1, 4, -15, 15),
        (lambda: tf.random.uniform([COUNT], -1.0, 3.0), 1, 16 / 12, -1, 3),
        (lambda: tf.random.uniform([COUNT], 2, 6, tf.int32), 3.5, 1.25, 2, 5),
        (lambda: tf.random.uniform([COUNT], 2, 6, tf.int64), 3.5, 1.25, 2, 5),
        (lambda: tf.random.truncated_normal([COUNT]), 0, 0.7737, -2, 2),
        (lambda: tf.nn.dropout(tf.ones([COUNT]), 0.25), 1, 1 / 3, 0, 4 / 3 + 1e-6),
    ],
    ids=["normal", "uniform", "int32", "int64", "truncated normal", "dropout"],
)
def test_numbers_have_the_moments_of_their_distribution(draw, mean, variance, low, high, xla):
    step = traced(draw, xla=xla)

    one, two = step().numpy().astype(float), step().numpy().astype(float)

    for found in (one, two):
        assert found.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / COUNT))
        assert found.var() == pytest.approx(variance, rel=0.05)
        assert low <= found.min()
        assert found.max() <= high
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(COUNT)


@pytest.mark.parametrize(
    ("draw", "means", "variances"),
    [
        (lambda: tf.random.gamma([COUNT], [0.5, 3.0], 2.0), [0.25, 1.5], [0.125, 0.75]),
        (lambda: tf.random.poisson([COUNT], [0.5, 30.0]), [0.5, 30], [0.5, 30]),
    ],
    ids=["gamma", "poisson"],
)
def test_each_parameter_has_its_distribution(draw, means, variances):
    found = traced(draw)().numpy()

    assert found.shape == (COUNT, 2)
    np.testing.assert_allclose(found.mean(axis=0), means, rtol=0.05)
    np.testing.assert_allclose(found.var(axis=0), variances, rtol=0.1)


@pytest.mark.parametrize("xla", [False, True])
def test_classes_are_drawn_by_their_logits(xla):
    logits = np.concatenate([LOGITS, [[0.0, -np.inf, -np.inf]]]).astype(np.float32)

    found = traced(lambda: tf.random.categorical(logits, COUNT), xla=xla)().numpy()

    shares = np.stack([np.bincount(row, minlength=3) / COUNT for row in found])
    np.testing.assert_allclose(shares, np.exp(logits), atol=0.02)
    assert found.dtype == np.int64


@pytest.mark.parametrize("xla", [False, True])
def test_a_shuffle_is_a_permutation_in_which_every_place_is_as_likely(xla):
    step = traced(lambda: tf.random.shuffle(tf.range(5)), xla=xla)

    found = np.stack([step().numpy() for _ in range(2000)])

    assert (np.sort(found, axis=1) == np.arange(5)).all()
    for place in range(5):
        np.testing.assert_allclose(np.bincount(found[:, place], minlength=5) / 2000, 0.2, atol=0.05)


OPERATIONS = {
    "RandomStandardNormal": lambda v: tf.random.normal(tf.shape(v), dtype=tf.float16),
    "TruncatedNormal": lambda v: tf.random.truncated_normal([2, 3], dtype=tf.float64),
    "RandomUniform": lambda v: tf.random.uniform([tf.shape(v)[0], 7], dtype=tf.bfloat16),
    "RandomUniformInt": lambda v: tf.random.uniform((), 0, 9, tf.int64),
    "RandomShuffle": tf.random.shuffle,
    "Multinomial": lambda v: tf.random.categorical(v, 5, dtype=tf.int32),
    "RandomGamma": lambda v: tf.random.gamma([2], tf.ones((3, 1)), tf.ones(4), dtype=tf.float32),
    "RandomPoissonV2": lambda v: tf.random.poisson([2, 5], tf.ones(3), dtype=tf.float64),
    "SampleDistortedBoundingBoxV2": lambda v: tf.image.sample_distorted_bounding_box(
        [9, 9, 3], tf.zeros((1, 0, 4)), min_object_covered=0.1, use_image_if_no_bounding_boxes=True
    ),
    "raw": lambda v: tf.raw_ops.RandomUniform(shape=[3], dtype=tf.float32),
}


def test_every_operation_that_is_replaced_is_compared():
    assert {*OPERATIONS} - {"raw"} == {*DRAWN_BY}


@pytest.mark.parametrize("kind", OPERATIONS)
def test_shapes_and_types_are_those_of_the_operation(kind):
    rows = tf.ones((6, 4))
    signature = [tf.TensorSpec((None, 4))]
    plain = tf.function(OPERATIONS[kind], autograph=False, input_signature=signature)

    replaced = traced(OPERATIONS[kind], input_signature=signature)

    pairs = [(function.get_concrete_function(), function(rows)) for function in (plain, replaced)]
    assert drawing_operations(pairs[0][0].graph)
    for one, two in zip(*(tf.nest.flatten(function.structured_outputs) for function, _ in pairs), strict=True):
        assert (one.shape.as_list(), one.dtype) == (two.shape.as_list(), two.dtype)
    for one, two in zip(*(tf.nest.flatten(values) for _, values in pairs), strict=True):
        assert (one.shape, one.dtype) == (two.shape, two.dtype)


def test_gradients_are_those_of_the_operations():
    def gradients():
        alpha, rows = tf.constant([2.0, 3.0]), tf.ones((4, 2))
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([alpha, rows])
            drawn, shuffled = tf.random.gamma([20_000], alpha), tf.random.shuffle(rows)
        return tape.gradient(drawn, alpha), tape.gradient(shuffled, rows, unconnected_gradients="zero")

    of_alpha, of_rows = traced(gradients)()

    np.testing.assert_allclose(of_alpha / 20_000, [1, 1], atol=0.05)  # the mean of a gamma variable is alpha
    assert not of_rows.numpy().any()


def test_operations_with_seeds_that_draw_nothing_are_not_told():
    @tf.function
    def step(value):
        ids = tf.zeros((2, 1), tf.int64)
        tf.nn.compute_accidental_hits(ids, tf.range(3, dtype=tf.int64), 1)
        return tf.nn.fractional_max_pool(value, [1, 1.4, 1.4, 1], seed=3)[0]

    graph = step.get_concrete_function(tf.TensorSpec((1, 8, 8, 1))).graph

    assert drawing_operations(graph) == []
