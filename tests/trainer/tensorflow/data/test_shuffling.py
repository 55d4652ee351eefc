"""Shuffling of a tf.data.Dataset: within the bound on memory, by index where possible, the same after a resume."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tensorflow as tf

from trackside.trainer.tensorflow.data.loader import DatasetBatches
from trackside.trainer.tensorflow.data.shuffling import OVERHEAD_BYTES, Shuffling, bytes_of_example

COUNT = 40
LARGE = 2**16  # bytes; 15 of them fit into 1 MiB
NUMBERS = tf.data.Dataset.range(COUNT)
SLICES = tf.data.Dataset.from_tensor_slices(np.repeat(np.arange(COUNT)[:, None], LARGE // 8, axis=1))


def large(number):
    return tf.fill((LARGE // 8,), number)


def texts(number):
    return tf.strings.reduce_join(tf.repeat(tf.strings.as_string(number % 10), LARGE))


def known(dataset):
    return dataset.apply(tf.data.experimental.assert_cardinality(COUNT))


INDEXED = {
    "range and map": NUMBERS.map(large),
    "parallel map": NUMBERS.map(large, num_parallel_calls=4).prefetch(2),
    "slices": SLICES,
    "slices of several arrays": tf.data.Dataset.zip((SLICES, NUMBERS)),
    "shard of another": tf.data.Dataset.range(2 * COUNT).shard(2, 0).map(large),
}
BUFFERED = {
    "filter": known(NUMBERS.filter(lambda number: number >= 0)).map(large),
    "interleave": known(tf.data.Dataset.range(4).interleave(lambda file: NUMBERS.skip(file * 10).take(10))).map(large),
    "cache": NUMBERS.map(large).cache(),
    "user's own shuffle": NUMBERS.shuffle(COUNT).map(large),
}


def order(batches, epoch, skip=0):
    """Return the numbers in the batches of an epoch; those of the rows, where examples are large."""
    return [int(row) for pair in batches.epoch(epoch, skip) for row in first_column(pair)]


def first_column(pair):
    features = np.asarray(pair.features)
    return features if features.ndim == 1 else features[:, 0]


def batches_of(dataset, **options):
    return DatasetBatches(dataset, **{"batch_size": 4, "seed": 3, "shuffle": True, "shuffle_buffer_mib": 1, **options})


@pytest.mark.parametrize("kind", INDEXED)
def test_more_examples_than_the_buffer_holds_are_shuffled_by_index(kind, caplog):
    batches = batches_of(INDEXED[kind])

    epochs = [order(batches, epoch) for epoch in (0, 1)]

    assert batches._shuffling.by_index
    assert all(sorted(epoch) == sorted(order(batches_of(INDEXED[kind], shuffle=False), 0)) for epoch in epochs)
    assert epochs[0] != epochs[1] != sorted(epochs[1])
    assert "shuffle" not in caplog.text


@pytest.mark.parametrize("kind", [*INDEXED, *BUFFERED])
def test_an_epoch_that_is_begun_within_has_the_rest_of_its_order(kind):
    whole = order(batches_of(INDEXED.get(kind) or BUFFERED[kind]), 1)

    assert order(batches_of(INDEXED.get(kind) or BUFFERED[kind]), 1, skip=12) == whole[12:]


@pytest.mark.parametrize("kind", BUFFERED)
def test_without_indices_a_part_of_the_examples_is_held_and_told_once(kind, caplog):
    batches = batches_of(BUFFERED[kind])

    with caplog.at_level(logging.WARNING, logger="trackside"):
        epochs = [order(batches, epoch) for epoch in (0, 1)]

    assert not batches._shuffling.by_index
    assert batches._shuffling.buffer_examples == 2**20 // (LARGE + OVERHEAD_BYTES)
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert (
        caplog.text.count("the buffer holds 15 of 40 examples (at most 100000, and at most shuffle_buffer_mib=1)") == 1
    )


def test_examples_that_fit_are_held_as_ever_in_the_same_order():
    plain = NUMBERS.shuffle(COUNT, seed=DatasetBatches(NUMBERS, batch_size=4).seed, reshuffle_each_iteration=False)

    ample, narrow = (Shuffling(NUMBERS, COUNT, mib) for mib in (256, 1))

    assert ample.buffer_examples == narrow.buffer_examples == COUNT
    assert list(ample.apply(NUMBERS, 0).as_numpy_iterator()) == list(plain.as_numpy_iterator())


def test_examples_without_a_declared_size_are_measured(caplog):
    words = NUMBERS.map(texts)
    rows = NUMBERS.map(lambda number: tf.repeat(number, 1000 + number))

    assert bytes_of_example(words) == LARGE + OVERHEAD_BYTES
    assert 8 * 1000 < bytes_of_example(rows) < 8 * 1040 + OVERHEAD_BYTES
    assert Shuffling(words, None, 1).buffer_examples == 15
    assert bytes_of_example(NUMBERS.map(lambda number: (number, tf.ragged.range([number])))) > 8


def test_an_unknown_number_of_examples_is_bounded_alike():
    endless = Shuffling(NUMBERS.map(large).repeat(), None, 1)

    assert endless.buffer_examples == 15
    assert Shuffling(NUMBERS.repeat(), None, 256).buffer_examples == 100_000
