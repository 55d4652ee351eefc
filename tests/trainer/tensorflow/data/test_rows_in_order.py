"""A dataset of slices of arrays is read by its rows, in the order that tf.data gives its examples."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from trackside.trainer.tensorflow._compat import slices_of
from trackside.trainer.tensorflow.data import rows_in_order
from trackside.trainer.tensorflow.data.loader import DatasetBatches
from trackside.trainer.tensorflow.data.readers import IteratorReader, RowsReader

X = np.arange(150, dtype="float32").reshape(50, 3)
NUMBER = np.arange(50)
DATASET = tf.data.Dataset.from_tensor_slices(({"x": X, "n": NUMBER.astype("uint8")}, NUMBER, X[:, 0]))


def flat(batches):
    return [[np.asarray(leaf) for leaf in tf.nest.flatten(batch)] for batch in batches]


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("skip", [0, 16, 48])
@pytest.mark.parametrize("options", [{"shuffle": True}, {"shuffle": True, "drop_last": True}, {}], ids=str)
def test_batches_are_those_of_the_dataset(monkeypatch, options, skip, epoch):
    monkeypatch.setattr(rows_in_order, "READ_AT_ONCE", 7)
    batches = DatasetBatches(DATASET, batch_size=8, seed=5, **options)

    reader = batches.reader(epoch, skip)

    found, wanted = flat(reader.read() for _ in reader), flat(batches.epoch(epoch, skip))
    assert type(reader) is RowsReader
    assert len(found) == len(wanted)
    for own, other in zip(found, wanted, strict=True):
        for row, given in zip(own, other, strict=True):
            np.testing.assert_array_equal(row, given)


def test_several_batches_are_taken_at_once():
    batches = DatasetBatches(DATASET, batch_size=8, seed=5, shuffle=True)
    one, several = batches.reader(0, 0), batches.reader(0, 0)

    taken = [several.take(3), several.take(4)]

    labels = np.concatenate([rows.labels.labels for rows in taken])
    np.testing.assert_array_equal(labels, np.concatenate([one.read().labels.labels for _ in one]))


@pytest.mark.parametrize(
    "dataset",
    [
        DATASET.map(lambda *parts: parts),
        tf.data.Dataset.range(50),
        tf.data.Dataset.from_tensor_slices(NUMBER.astype(str)),
        tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [2, 3]])),
        tf.data.Dataset.from_tensor_slices(tf.sparse.from_dense(X)),
        tf.data.Dataset.from_tensor_slices(tf.cast(X, tf.bfloat16)),
    ],
    ids=["map", "range", "texts", "ragged", "sparse", "bfloat16"],
)
def test_others_are_read_by_their_iterators(dataset):
    assert slices_of(dataset) is None
    assert isinstance(DatasetBatches(dataset, batch_size=8, shuffle=True).reader(0, 0), IteratorReader)


def test_the_rows_are_not_copied():
    assert not slices_of(DATASET)[0]["x"].flags.owndata
