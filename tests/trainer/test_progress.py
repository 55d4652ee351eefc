from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks.errors import ArgumentError, TracksideValueError
from trackside.trainer.progress import Progress, TrainingPlan, plan_training, windows


@given(
    batches=st.integers(1, 200),
    accumulation=st.integers(1, 20),
    epochs=st.floats(0.01, 20),
    max_steps=st.integers(-1, 500),
)
def test_a_plan_has_as_many_steps_as_its_windows_and_as_many_epochs_as_they_fill(
    batches: int, accumulation: int, epochs: float, max_steps: int
) -> None:
    plan = plan_training(
        batches_per_epoch=batches, accumulation_steps=accumulation, num_train_epochs=epochs, max_steps=max_steps
    )

    updates = len(list(windows(iter(range(batches)), accumulation)))
    assert plan.max_steps == (max_steps if max_steps > 0 else math.ceil(updates * epochs))
    assert (plan.num_train_epochs - 1) * updates < plan.max_steps <= plan.num_train_epochs * updates


def test_a_dataset_without_length_needs_max_steps() -> None:
    with pytest.raises(ArgumentError, match="max_steps=-1 is not allowed: a whole number above 0"):
        plan_training(batches_per_epoch=None, accumulation_steps=1, num_train_epochs=3, max_steps=-1)


def test_an_empty_dataset_is_an_error() -> None:
    with pytest.raises(TracksideValueError, match="holds no batch"):
        plan_training(batches_per_epoch=0, accumulation_steps=1, num_train_epochs=3, max_steps=10)


@given(st.lists(st.integers(), max_size=50), st.integers(1, 9))
def test_windows_hold_every_batch_in_order_and_only_the_last_is_short(batches: list[int], size: int) -> None:
    cut = list(windows(iter(batches), size))

    assert [batch for window in cut for batch in window] == batches
    assert all(len(window) == size for window in cut[:-1])


def test_windows_read_nothing_ahead() -> None:
    taken: list[int] = []
    source = (taken.append(number) or number for number in range(10))

    first = next(windows(source, 3))

    assert first == taken == [0, 1, 2]


@given(st.integers(0, 5), st.integers(1, 100), st.data())
def test_the_epoch_grows_with_every_batch_and_is_whole_at_its_end(
    epoch: int, batches: int, data: st.DataObject
) -> None:
    plan = TrainingPlan(max_steps=10, num_train_epochs=9, batches_per_epoch=batches)
    done = data.draw(st.integers(0, batches))

    progress = Progress(epoch=epoch, batches_in_epoch=done)

    assert epoch <= progress.epoch_with_fraction(plan, 1) <= epoch + 1
    assert (progress.epoch_with_fraction(plan, 1) == epoch + 1) == (done == batches)
