"""Batches of a datasets.Dataset are those of the default collator to the bit, whatever its columns hold."""

from __future__ import annotations

import pytest
import torch

from trackside.trainer.pytorch.data.arrow import ArrowBatches, batch_of
from trackside.trainer.pytorch.data.collators import default_data_collator
from trackside.trainer.pytorch.data.columns import UsedColumns

datasets = pytest.importorskip("datasets")

ROWS = 12


def typed(kind, values):
    return datasets.Dataset.from_dict({"x": values}, features=datasets.Features({"x": kind}))


def value(dtype):
    return datasets.Value(dtype)


NUMBERS = {
    "int64": typed(value("int64"), [2**62 + 1, -1, 3] * 4),
    "int8": typed(value("int8"), [-128, 127, 0] * 4),
    "uint32": typed(value("uint32"), [2**32 - 1, 1, 0] * 4),
    "bool": typed(value("bool"), [True, False, True] * 4),
    "float16": typed(value("float16"), [0.1, -2.5, 65504.0] * 4),
    "float32": typed(value("float32"), [0.1, 1e-40, 3e38] * 4),
    "float64": typed(value("float64"), [0.1, 1e300, -1e-300] * 4),
    "lists": typed(datasets.Sequence(value("int32")), [[i, -i, 2] for i in range(ROWS)]),
    "fixed lists": typed(datasets.Sequence(value("float64"), length=2), [[i / 3, -i / 7] for i in range(ROWS)]),
    "nested": typed(
        datasets.Sequence(datasets.Sequence(value("int64"))), [[[i, 1], [2, 3], [4, i]] for i in range(ROWS)]
    ),
}

LABELS = {
    "label": [0, 1, 2] * 4,
    "label that is a class": None,
    "label of a regression": [0.1, 0.7, 1 / 3] * 4,
    "label that is true or false": [True, False, True] * 4,
    "label of several classes": [[1, 0], [0, 1], [1, 1]] * 4,
    "label_ids": [[1, 2], [3, -100], [5, 6]] * 4,
    "label_ids of numbers": [[0.5, 0.25], [3.0, 1 / 3], [5.0, 6.0]] * 4,
}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, equal_nan=True)


def check(dataset, *, is_quick=True, collate=default_data_collator):
    assert ArrowBatches.suit(dataset, collate)
    batches = ArrowBatches(dataset, collate)
    for indices in ([3, 1, 2], [11, 0], [5], [7, 7, 2, 4]):
        assert_same(batches.__getitems__(indices), collate(dataset.__getitems__(indices)))
    assert (batches._table is not None) is is_quick


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_the_types_and_values_of_the_default_collator(name):
    check(NUMBERS[name])


@pytest.mark.parametrize("name", LABELS)
def test_labels_have_the_types_and_values_of_the_default_collator(name):
    column = "label_ids" if name.startswith("label_ids") else "label"
    dataset = NUMBERS["lists"].add_column(column, LABELS[name] or [0, 1, 2] * 4)
    if LABELS[name] is None:
        dataset = dataset.cast_column("label", datasets.ClassLabel(names=["a", "b", "c"]))

    check(dataset)


def test_texts_are_left_out_and_columns_keep_their_order():
    dataset = NUMBERS["lists"].add_column("text", ["a", "b", "c"] * 4).add_column("y", list(range(ROWS)))

    check(dataset.add_column("label", list(range(ROWS))))


def test_rows_that_were_selected_and_shuffled_are_those_that_were_asked_for():
    check(NUMBERS["float64"].shuffle(seed=1))
    check(datasets.concatenate_datasets([NUMBERS["lists"], NUMBERS["lists"]]).select(range(9, 22)))


def test_columns_that_the_model_does_not_take_are_not_read():
    dataset = NUMBERS["lists"].add_column("ragged", [[1] * (i % 3) for i in range(ROWS)])

    check(dataset, collate=UsedColumns(default_data_collator, ["x"], ["labels"], "Model", set()))


def test_a_type_of_its_own_as_default_is_that_of_numbers():
    torch.set_default_dtype(torch.float64)
    try:
        check(NUMBERS["float64"])
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("values", [[1, 2, None, *range(9)], [*range(6), None, *range(5)]])
def test_missing_numbers_are_left_to_the_collator(values):
    dataset = typed(value("int64"), values)
    batches = ArrowBatches(dataset, default_data_collator)

    batches.__getitems__([0, 1])

    with pytest.raises(Exception, match="cannot be stacked in 'x'"):
        batches.__getitems__([1, values.index(None)])
    assert batches.__getitems__([values.index(None), 1]) == {}


def test_rows_of_other_lengths_are_left_to_the_collator():
    rows = [[1, 2], [3, 4], [5], [6, 7, 8]] * 3
    batches = ArrowBatches(typed(datasets.Sequence(value("int64")), rows), default_data_collator)

    assert batches.__getitems__([0, 1])["x"].tolist() == [[1, 2], [3, 4]]
    assert batch_of(batches._table[[2, 3]]) is None  # as many numbers as two rows of two
    with pytest.raises(Exception, match="cannot be stacked in 'x'"):
        batches.__getitems__([2, 3])


def test_a_format_or_a_collator_of_the_user_is_not_replaced():
    dataset = NUMBERS["lists"]

    assert not ArrowBatches.suit(dataset.with_format("torch"), default_data_collator)
    assert not ArrowBatches.suit(dataset, lambda rows: rows)
    assert not ArrowBatches.suit(dataset.to_iterable_dataset(), default_data_collator)
    assert not ArrowBatches.suit([{"x": 1}], default_data_collator)


def test_a_format_that_is_set_later_holds_from_then_on():
    dataset = typed(value("int64"), list(range(ROWS)))
    batches = ArrowBatches(dataset, default_data_collator)
    batches.__getitems__([0, 1])

    dataset.set_transform(lambda rows: {"x": [10 * number for number in rows["x"]]})

    assert batches.__getitems__([1, 2])["x"].tolist() == [10, 20]
