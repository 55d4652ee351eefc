"""Arrays of objects, lists and texts as features and labels, and parts of tensors."""

from __future__ import annotations

import numpy as np
import pytest
from support.arrays import classified
from support.tf_models import tf

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError
from trackside.trainer.tensorflow.data.factory import make_batches
from trackside.trainer.tensorflow.data.leaves import as_array, rows_in

X, Y = classified(20)


def test_arrays_of_objects_are_numbers_where_all_are():
    assert as_array(np.array([1, 2], dtype=object)).dtype.kind == "i"
    assert as_array(np.array([1, 2.5], dtype=object)).dtype == np.float32
    assert as_array(np.array([True, False], dtype=object)).dtype == bool
    assert as_array(np.array(["a", "b"], dtype=object)).dtype == object


@pytest.mark.parametrize(
    "values",
    [[1, "a"], ["a", 1], ["a", None], [[1], [1, 2]], [None, 1]],
    ids=["mixed", "text first", "a missing text", "ragged", "None"],
)
def test_objects_that_are_not_all_numbers_are_named(values):
    with pytest.raises(TracksideTypeError, match="holds objects"):
        as_array(np.array([*values, None][:-1], dtype=object))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full(20, "2020-01-01", "datetime64[D]"),
            r"the type datetime64\[D\], which TensorFlow does not have: give num",
        ),
        (np.zeros(20, [("a", "f4")]), "which TensorFlow does not have: give each column on its own"),
        (X.astype("longdouble"), "which TensorFlow does not have: convert it to another one, such as float32"),
        (np.ma.masked_greater(X, 0), "is masked, and the values behind the mask would be used"),
    ],
    ids=["dates", "records", "longdouble", "masked"],
)
def test_arrays_that_tensorflow_would_not_take_as_they_are_meant_are_refused(make_trainer, values, message):
    with pytest.raises(TracksideTypeError, match=message):
        make_trainer(train_dataset=(values, Y)).train()


def test_an_array_of_which_no_value_is_masked_is_an_array():
    np.testing.assert_array_equal(as_array(np.ma.array(X)), X)


def test_lists_of_numbers_are_arrays_and_lists_of_arrays_are_inputs():
    batches = make_batches((X.tolist(), Y.tolist()), batch_size=4)
    several = make_batches(([X, X], Y), batch_size=4)

    np.testing.assert_array_equal(batches.arrays.features, X)
    assert batches.num_examples == several.num_examples == 20
    assert len(several.arrays.features) == 2


def test_texts_as_labels_are_named_before_the_loss_is_computed(make_trainer):
    names = np.array(["cat", "dog", "cow"])[Y]

    with pytest.raises(TracksideValueError, match="the labels are texts, and a loss needs numbers"):
        make_trainer(train_dataset=(X, names)).train()


def test_texts_in_a_compiled_step_are_named(make_trainer):
    import keras

    layers = keras.layers
    given = keras.Input((1,), dtype="string")
    codes = layers.StringLookup(vocabulary=["good", "bad"])(given)
    model = keras.Model(given, layers.Dense(3)(layers.Flatten()(layers.Embedding(4, 4)(codes))))
    data = (np.array([["good"], ["bad"]] * 10), Y)

    with pytest.raises(TracksideValueError, match="XLA cannot compile texts"):
        make_trainer(model=model, train_dataset=data, xla=True).train()


def test_rows_of_a_sparse_tensor_are_those_of_the_dense_one():
    dense = np.arange(12.0).reshape(4, 3)

    np.testing.assert_array_equal(tf.sparse.to_dense(rows_in(tf.sparse.from_dense(dense), 1, 3)), dense[1:3])
    np.testing.assert_array_equal(rows_in(dense, 1, 3), dense[1:3])
    assert rows_in(None, 0, 1) is None


@pytest.mark.parametrize(
    "dataset",
    [
        tf.data.Dataset.from_tensors((X, Y)),
        tf.data.Dataset.range(2).interleave(lambda _: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)),
        tf.data.Dataset.range(2).flat_map(lambda _: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)),
    ],
    ids=["one element", "interleave", "flat_map"],
)
def test_elements_that_look_like_batches_are_told(dataset, caplog):
    make_batches(dataset, batch_size=2)

    assert "is taken as one example, though it looks like a batch" in caplog.text


def test_tables_of_pandas_are_arrays_by_position():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"), index=np.random.default_rng(0).permutation(20))
    label = pandas.Series(Y, frame.index, name="label")
    forms = {
        "frame": (frame, label),
        "whole numbers that may be missing": (frame, label.astype("Int64")),
        "columns": (dict(frame), label),
    }

    for name, given in forms.items():
        arrays = make_batches(given, batch_size=4).arrays
        found = np.stack(list(arrays.features.values()), 1) if name == "columns" else arrays.features
        np.testing.assert_array_equal(found, X, err_msg=name)
        np.testing.assert_array_equal(arrays.labels, Y, err_msg=name)
    with pytest.raises(TracksideTypeError, match=r"not DataFrame. Write a pair of it: \(frame\[names\], frame\[label"):
        make_batches(frame, batch_size=4)
    with pytest.raises(TracksideTypeError, match="holds objects, float, str, that are not all numbers"):
        make_batches((frame.assign(a=["text"] * 10 + [1.0] * 10), label), batch_size=4)
