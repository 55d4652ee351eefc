from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks.errors import TracksideValueError
from trackside.trainer.evaluation.growing_array import PADDING, GrowingArray
from trackside.trainer.evaluation.output_collector import Collector


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=20), st.integers(0, 30))
def test_ragged_batches_come_out_in_order_and_padded(shapes: list[tuple[int, int]], expected: int) -> None:
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 100, shape) for shape in shapes]
    array = GrowingArray(expected or None)

    for batch in batches:
        array.append(batch)

    widest = max(width for _, width in shapes)
    padded = [np.pad(b, ((0, 0), (0, widest - b.shape[1])), constant_values=PADDING) for b in batches]
    np.testing.assert_array_equal(array.array(), np.concatenate(padded))


def test_gathering_n_batches_allocates_a_handful_of_times() -> None:
    class Counting(GrowingArray):
        allocations = 0

        def _resized(self, rows, shape, dtype):  # type: ignore[no-untyped-def]
            self.allocations += 1
            return super()._resized(rows, shape, dtype)

    array = Counting()
    for _ in range(10_000):
        array.append(np.zeros((4, 3), np.float32))

    assert array.array().shape == (40_000, 3)
    assert 10 < array.allocations < 40


def test_the_expected_number_of_rows_is_allocated_once() -> None:
    array = GrowingArray(expected=100)
    array.append(np.ones((10, 2)))
    rows = array._rows

    for _ in range(9):
        array.append(np.ones((10, 2)))

    assert array.array() is rows
    assert array.array().shape == (100, 2)


@pytest.mark.parametrize("expected", [None, 500])
def test_an_array_of_unknown_size_has_no_more_memory_than_its_rows(expected: int | None) -> None:
    array = GrowingArray(expected)
    for number in range(7):
        array.append(np.full((10, 2), number))

    rows = array.array()

    assert rows.base is None
    assert rows[:, 1].tolist() == [number for number in range(7) for _ in range(10)]


def test_rows_that_were_given_out_stay_as_they_are_while_more_are_appended() -> None:
    array = GrowingArray()
    array.append(np.ones((3, 2)))
    given = array.array()

    for _ in range(100):
        array.append(np.zeros((300, 2)))

    assert given.tolist() == [[1.0, 1.0]] * 3
    assert array.array().shape == (30_003, 2)


def test_nested_predictions_keep_their_form() -> None:
    collector = Collector()
    for number in range(3):
        collector.append({"logits": np.full((2, 2), number), "extra": (np.full((2,), -number),)})

    result = collector.result()

    assert result["logits"].shape == (6, 2)
    np.testing.assert_array_equal(result["extra"][0], [0, 0, -1, -1, -2, -2])


def test_nothing_gathered_is_none() -> None:
    collector = Collector()
    collector.append(None)

    assert collector.result() is None


def test_batches_may_stay_apart() -> None:
    collector = Collector(concatenate=False)
    collector.append(np.zeros((2, 3)))
    collector.append(np.zeros((1, 4)))

    assert [batch.shape for batch in collector.result()] == [(2, 3), (1, 4)]


@pytest.mark.parametrize(("dtype", "widened"), [("uint8", "int16"), ("bool", "int8"), ("uint32", "int64")])
def test_a_type_that_cannot_hold_the_padding_is_widened_only_for_ragged_batches(dtype: str, widened: str) -> None:
    even, ragged = GrowingArray(), GrowingArray()
    for width in (2, 3):
        even.append(np.ones((2, 3), dtype))
        ragged.append(np.ones((2, width), dtype))

    assert even.array().dtype == dtype
    assert ragged.array().dtype == widened
    np.testing.assert_array_equal(ragged.array()[:, 2], [PADDING, PADDING, 1, 1])


def test_rows_need_not_be_examples() -> None:
    collector = Collector(expected=5)
    for examples in (3, 2):
        collector.append(np.full((examples * 4, 2), examples), examples)

    assert collector.result()[:, 0].tolist() == [3] * 12 + [2] * 8


@pytest.mark.parametrize("sizes", [(3, 2), (2, 2), (1, 1)])
def test_a_list_of_one_dict_for_each_example_becomes_a_list_of_all(sizes: tuple[int, int]) -> None:
    collector = Collector()
    for number, examples in enumerate(sizes):
        collector.append([{"boxes": np.full((i + 2, 4), number)} for i in range(examples)], examples)

    found = [item["boxes"].shape for item in collector.result()]

    assert found == [(i + 2, 4) for examples in sizes for i in range(examples)]


@pytest.mark.parametrize("sizes", [(3, 3), (3, 2), (4, 3)])
def test_a_list_of_outputs_becomes_a_tuple_of_arrays_even_if_it_is_as_long_as_a_batch(sizes: tuple[int, int]) -> None:
    collector = Collector()
    for examples in sizes:
        collector.append([np.zeros((examples, 2)), np.ones((examples, 3)), np.ones(examples)], examples)

    assert [part.shape for part in collector.result()] == [(sum(sizes), 2), (sum(sizes), 3), (sum(sizes),)]


def test_a_list_of_one_array_for_each_example_may_be_ragged() -> None:
    collector = Collector()
    for examples in (2, 3):
        collector.append([np.zeros(i + 1) for i in range(examples)], examples)

    assert [len(item) for item in collector.result()] == [1, 2, 1, 2, 3]


def test_the_outputs_of_a_model_stay_apart_in_batches_as_large_as_their_number() -> None:
    collector = Collector(is_tuple_of_outputs=True)
    for _ in range(2):
        collector.append((np.zeros((6, 2)), np.zeros((2, 5))), 2)

    assert [part.shape for part in collector.result()] == [(12, 2), (4, 5)]


def test_a_last_example_that_the_model_squeezed_is_a_row() -> None:
    collector = Collector()
    collector.append(np.zeros((4, 3)), 4)
    collector.append(np.ones(3), 1)

    assert collector.result().shape == (5, 3)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3, 1)), r"the output of a batch has the shape \(2, 3, 1\).* 2 dimensions"),
        ({"a": np.zeros(2)}, {"b": np.zeros(2)}, r"the entries \['b'\].* \['a'\]"),
        ({"a": None}, {"a": np.zeros(2)}, r"the output \['a'\] of a batch has an array, .* None"),
        (np.array(["a", "b"]), np.zeros((2,), "datetime64[s]"), "datetime64"),
    ],
)
def test_batches_that_cannot_be_joined_are_named(first: Any, second: Any, words: str) -> None:
    collector = Collector()
    collector.append(first, 2)

    with pytest.raises(TracksideValueError, match=words + ".*eval_do_concat_batches=False"):
        collector.append(second, 2)
