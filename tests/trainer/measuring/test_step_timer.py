from __future__ import annotations

import pytest

from trackside.trainer.measuring import step_timer
from trackside.trainer.measuring.step_timer import StepTimer


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(step_timer, "perf_counter", clock)
    return clock


@pytest.fixture
def timer():
    timer = StepTimer()
    timer.is_on = True
    return timer


def slow_batches(clock, count, seconds):
    for number in range(count):
        clock.now += seconds
        yield number


def test_own_time_goes_from_asking_for_data_to_the_exchange(timer, clock):
    for _ in timer.reading(slow_batches(clock, 4, 2.0)):
        clock.now += 1.0
        timer.exchange()
        clock.now += 5.0
        timer.step_end()
        clock.now += 1000.0  # an evaluation

    assert timer.take() == (8.0, 3.0)
    assert timer.take() == (None, None)


def test_all_micro_batches_of_an_update_are_its_data(timer, clock):
    batches = timer.reading(slow_batches(clock, 4, 2.0))

    for _ in range(2):
        next(batches)
        next(batches)
        timer.exchange()
        timer.exchange()
        timer.step_end()

    assert timer.take() == (4.0, 4.0)


def test_between_two_epochs_nothing_is_timed(timer, clock):
    for _ in range(2):
        for _ in timer.reading(slow_batches(clock, 1, 2.0)):
            timer.exchange()
            timer.step_end()
        clock.now += 1000.0

    assert timer.take() == (2.0, 2.0)


def test_without_an_exchange_only_whole_steps_are_known(timer, clock):
    for _ in timer.reading(slow_batches(clock, 3, 2.0)):
        timer.step_end()

    assert timer.take() == (2.0, None)


def test_a_watch_that_was_not_asked_for_stands_still(clock):
    timer = StepTimer()
    batches = slow_batches(clock, 1, 2.0)

    assert timer.reading(batches) is batches
    timer.exchange()
    timer.step_end()
    assert timer.take() == (None, None)
