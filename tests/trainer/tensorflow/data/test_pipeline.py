"""The user's tf.data pipeline: new numbers in every epoch, the same for one seed, the same after a resume."""

from __future__ import annotations

import logging
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.arrays import classified

from trackside.trainer.tensorflow.data.loader import DatasetBatches, OwnBatches

FEATURES = np.arange(24, dtype=np.float32)[:, None]
BASE = tf.data.Dataset.from_tensor_slices((FEATURES, FEATURES))
SPEC = (tf.TensorSpec((1,)), tf.TensorSpec((1,)))
RNG = np.random.default_rng(0)
LAYER = keras.layers.GaussianNoise(0.5)
GENERATOR = tf.random.Generator.from_seed(3)


def known(dataset):
    return dataset.apply(tf.data.experimental.assert_cardinality(24))


def noisy(features, labels):
    return features + tf.random.normal((1,)), labels


def drawn(value):
    return np.float32(value + np.random.rand() + random.random())


def by_numpy(features, labels):
    return tf.ensure_shape(tf.numpy_function(drawn, [features], tf.float32), (1,)), labels


def by_python(features, labels):
    return tf.ensure_shape(tf.py_function(lambda value: drawn(value.numpy()), [features], tf.float32), (1,)), labels


def of_global():
    for index in np.random.permutation(24):
        yield FEATURES[index] + np.float32(np.random.rand()), FEATURES[index]


def of_own():
    for index in range(24):
        yield FEATURES[index] + np.float32(RNG.random()), FEATURES[index]


def sometimes(features, labels):
    return tf.cond(tf.random.uniform(()) > 0.5, lambda: features + tf.random.normal((1,)), lambda: features), labels


def inner(index):
    return BASE.skip(index * 6).take(6).map(noisy).shuffle(6)


def with_numbers():
    numbers = tf.data.Dataset.random(rerandomize_each_iteration=True)
    pairs = tf.data.Dataset.zip((BASE, numbers))
    return pairs.map(lambda pair, number: (pair[0] + tf.cast(number % 999, tf.float32), pair[1]))


KINDS = {
    "shuffle": lambda: BASE.shuffle(24),
    "shuffle with a seed": lambda: BASE.shuffle(24, seed=3),
    "tf.random in map": lambda: BASE.map(noisy),
    "tf.random in a parallel map": lambda: BASE.map(noisy, num_parallel_calls=4),
    "an op with a seed": lambda: BASE.map(lambda a, b: (a + tf.random.normal((1,), seed=1), b)),
    "tf.random in a branch": lambda: BASE.map(sometimes),
    "tf.image": lambda: BASE.map(lambda a, b: (tf.image.random_brightness(tf.reshape(a, (1, 1, 1)), 9.0)[0, 0], b)),
    "a layer in map": lambda: BASE.map(lambda a, b: (LAYER(a, training=True), b)),
    "a generator of TensorFlow": lambda: BASE.map(lambda a, b: (a + GENERATOR.normal((1,)), b)),
    "Dataset.random": with_numbers,
    "numpy in from_generator": lambda: known(tf.data.Dataset.from_generator(of_global, output_signature=SPEC)),
    "a generator of numpy": lambda: known(tf.data.Dataset.from_generator(of_own, output_signature=SPEC)),
    "numpy_function": lambda: BASE.map(by_numpy),
    "numpy_function in a parallel map": lambda: BASE.map(by_numpy, num_parallel_calls=4),
    "py_function": lambda: BASE.map(by_python),
    "interleave": lambda: known(tf.data.Dataset.range(4).interleave(inner, cycle_length=2)),
    "cache before": lambda: BASE.map(by_numpy).cache().map(noisy),
    "filter": lambda: BASE.filter(lambda a, b: tf.random.uniform(()) > 0.4),
}


def values(batches, epoch, skip=0):
    return [float(value) for pair in batches.epoch(epoch, skip) for value in np.ravel(pair.features)]


def own(dataset, **options):
    return OwnBatches(lambda epoch: dataset.batch(4), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [DatasetBatches, own])
def test_each_epoch_has_new_numbers_which_a_seed_decides_from_any_example_on(kind, make):
    options = {"batch_size": 4, "seed": 7, "shuffle": True}
    tf.random.set_seed(42)
    batches = make(KINDS[kind](), **options)
    first, second = values(batches, 0), values(batches, 1)
    np.random.rand(5), random.random()
    tf.random.set_seed(42)  # a resumed run does so
    again = make(KINDS[kind](), **options)
    resumed = values(again, 1, skip=8)

    assert resumed == second[8:]
    assert values(again, 0) == first
    assert first != second
    assert values(make(KINDS[kind](), **{**options, "seed": 8}), 0) != first


def test_a_fixed_shuffle_that_divides_the_data_stays_as_it_is():
    mixed = BASE.shuffle(24, seed=3, reshuffle_each_iteration=False)
    train, test = mixed.skip(6).map(noisy), [float(features[0]) for features, _ in mixed.take(6)]
    batches = own(train, batch_size=4, seed=7, shuffle=True)

    labels = [float(value) for pair in batches.epoch(1) for value in np.ravel(pair.labels)]

    assert sorted(labels + test) == sorted(FEATURES[:, 0].tolist())


def test_a_cache_is_filled_once_and_keeps_its_numbers():
    calls = []

    def counted(value):
        calls.append(1)
        return np.float32(value + np.random.rand())

    def count(features, labels):
        return tf.ensure_shape(tf.numpy_function(counted, [features], tf.float32), (1,)), labels

    batches = DatasetBatches(BASE.map(count).map(noisy).cache().map(lambda a, b: (a, b)), batch_size=4, shuffle=True)

    first, second = values(batches, 0), values(batches, 1)

    assert sorted(first) == sorted(second)
    assert len(calls) == 24


def test_a_variable_that_a_pipeline_reads_is_the_users_own():
    factor = tf.Variable(1.0)
    batches = own(BASE.map(lambda a, b: (a * factor + tf.random.normal((1,)) * 0.0, b)), batch_size=24, shuffle=True)

    factor.assign(3.0)

    np.testing.assert_array_equal(values(batches, 0), FEATURES[:, 0] * 3)


def test_drawing_in_a_pipeline_does_not_move_the_generators_of_the_process():
    batches = DatasetBatches(KINDS["numpy in from_generator"](), batch_size=4, shuffle=True)
    np.random.seed(5)
    random.seed(5)
    expected = np.random.RandomState(5).rand(), random.Random(5).random()

    values(batches, 0)

    assert (np.random.rand(), random.random()) == expected


def test_what_cannot_be_exact_is_told_once_by_name(caplog):
    dataset = BASE.map(noisy, num_parallel_calls=4, deterministic=False)

    with caplog.at_level(logging.WARNING, "trackside"):
        batches = DatasetBatches(dataset, batch_size=4, shuffle=True)
        values(batches, 0), values(batches, 1)

    assert [record.getMessage().count("deterministic=False") for record in caplog.records] == [1]


def test_a_cache_in_a_file_is_read_to_its_end_although_a_first_batch_is_looked_at(make_trainer, tmp_path):
    features, labels = classified(20)

    def cached(name):
        return tf.data.Dataset.from_tensor_slices((features, labels)).cache(str(tmp_path / name))

    for name in ("first", "second"):  # the second run finds the files of the first
        trainer = make_trainer(
            model=keras.Sequential([keras.layers.Dense(3)]),
            train_dataset=cached("train"),
            eval_dataset=cached("eval"),
            num_train_epochs=2,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            output_dir=str(tmp_path / name),
        )
        trainer.train()

        assert trainer.state.global_step == 6
        assert [path.name for path in tmp_path.iterdir() if "lockfile" in path.name] == []
