from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trackside.trainer.evaluation.output_collector import PADDING, Collector, GrowingArray


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

        def _new(self, shape, dtype):  # type: ignore[no-untyped-def]
            self.allocations += 1
            return super()._new(shape, dtype)

    array = Counting()
    for _ in range(10_000):
        array.append(np.zeros((4, 3), np.float32))

    assert array.array().shape == (40_000, 3)
    assert array.allocations < 40


def test_the_expected_number_of_rows_is_allocated_once() -> None:
    array = GrowingArray(expected=100)
    for _ in range(10):
        array.append(np.ones((10, 2)))

    base = array.array().base
    assert base is not None
    assert base.shape == (100, 2)


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
