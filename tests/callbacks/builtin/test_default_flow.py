from __future__ import annotations

import timeit

import pytest

from trackside import DefaultFlowCallback, TrainerControl, TrainerState


def asked(run, steps):
    """Return the steps at which each flag was set."""
    flags = {"should_log": [], "should_evaluate": [], "should_save": []}
    for _ in range(steps):
        run.step()
        for flag, at in flags.items():
            if getattr(run.control, flag):
                at.append(run.state.global_step)
                setattr(run.control, flag, False)
    return list(flags.values())


def test_steps_strategies_ask_at_multiples(track):
    run = track(DefaultFlowCallback(), state=TrainerState(max_steps=12, logging_steps=5, eval_steps=4, save_steps=6))

    assert asked(run, 12) == [[5, 10], [4, 8, 12], [6, 12]]


def test_logging_first_step_logs_the_first_one_too(track):
    run = track(DefaultFlowCallback(), logging_first_step=True)

    assert asked(run, 10)[0] == [1, 10]


def test_eval_delay_counts_steps_or_epochs_as_the_strategy_does(track):
    by_steps = track(DefaultFlowCallback(), state=TrainerState(max_steps=9, eval_steps=2), eval_delay=5)
    assert asked(by_steps, 9)[1] == [6, 8]

    by_epochs = track(DefaultFlowCallback(), eval_strategy="epoch", eval_delay=2)
    for epoch, wanted in [(1.0, False), (2.0, True)]:
        by_epochs.state.epoch = epoch
        by_epochs.send("on_epoch_end")
        assert by_epochs.control.should_evaluate is wanted


def test_epoch_strategies_ask_at_the_end_of_an_epoch_only(track):
    run = track(DefaultFlowCallback(), logging_strategy="epoch", eval_strategy="epoch", save_strategy="epoch")
    run.state.epoch = 1.0

    assert asked(run, 60) == [[], [], []]
    run.send("on_epoch_end")
    assert run.control == TrainerControl(should_log=True, should_evaluate=True, should_save=True)


@pytest.mark.parametrize("strategy", ["no", "best"])
def test_other_strategies_ask_for_nothing(track, strategy):
    run = track(DefaultFlowCallback(), logging_strategy="no", eval_strategy="no", save_strategy=strategy)

    assert asked(run, 50) == [[], [], []]
    run.send("on_epoch_end")
    assert run.control == TrainerControl()


def test_the_last_step_stops_without_a_reason(track):
    run, stops = track(), []
    for step in (2, 3):
        state = TrainerState(global_step=step, max_steps=3)
        DefaultFlowCallback().on_step_end(run.args, state, run.control)
        stops.append(run.control.should_training_stop)

    assert stops == [False, True]
    assert run.control.stop_reason is None


def test_no_steps_means_never(track):
    run = track(DefaultFlowCallback(), state=TrainerState(max_steps=9, logging_steps=0, eval_steps=0, save_steps=0))

    assert asked(run, 8) == [[], [], []]


def test_a_step_takes_about_a_microsecond_at_most(track):
    run, flow = track(), DefaultFlowCallback()
    run.state.global_step = 3

    seconds = min(timeit.repeat(lambda: flow.on_step_end(run.args, run.state, run.control), number=2000, repeat=20))

    assert seconds / 2000 < 5e-6  # far above what it takes, so that a busy machine does not fail it
