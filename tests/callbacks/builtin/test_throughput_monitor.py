from __future__ import annotations

import pytest

from trackside import ThroughputMonitorCallback, TrainerState
from trackside.callbacks.builtin import throughput_monitor
from trackside.callbacks.errors import ArgumentError


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(throughput_monitor, "perf_counter", clock)
    return clock


def test_the_rates_are_those_of_the_last_steps(track, clock):
    state = TrainerState(train_batch_size=8)
    run = track(ThroughputMonitorCallback(window=4), state=state, gradient_accumulation_steps=2, world_size=3)

    run.send("on_train_begin")
    for seconds in (10.0, 10.0, 0.5, 0.5, 0.5, 0.5):
        clock.now += seconds
        state.num_input_tokens_seen += 100
        run.step()

    assert run.dispatcher.logged_metrics({}) == {"steps_per_s": 2.0, "samples_per_s": 96.0, "tokens_per_s": 200.0}


def test_the_time_of_evaluations_is_left_out(track, clock):
    run = track(ThroughputMonitorCallback())

    run.send("on_train_begin")
    for _ in range(4):
        clock.now += 0.5
        run.step()
        clock.now += 50.0
        run.evaluate(eval_loss=1.0)

    assert run.dispatcher.logged_metrics({}) == {"steps_per_s": 2.0}


def test_before_the_first_step_there_is_nothing_to_log(track, clock):
    run = track(ThroughputMonitorCallback())

    assert run.dispatcher.logged_metrics({}) == {}
    run.evaluate(eval_loss=1.0)
    run.send("on_train_begin")
    assert run.dispatcher.logged_metrics({}) == {}


@pytest.mark.parametrize("window", [0, -3, 2.5])
def test_a_window_is_a_whole_number_of_steps(window):
    with pytest.raises(ArgumentError, match="window="):
        ThroughputMonitorCallback(window)
