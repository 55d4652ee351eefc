"""What the monitor makes of the times of all processes; tests/pytorch has real ones."""

from __future__ import annotations

import logging
import types

import pytest

from trackside import RankTimeMonitorCallback, StragglerMonitorCallback, TrainerState
from trackside.callbacks.config.attach import attach_from_map
from trackside.callbacks.errors import ArgumentError
from trackside.testing import installed_frameworks, tiny_trainer


def records(monitor, *times, is_first=True):
    """Return what is logged where the processes have the local step times given for each record, in steps of 0.1 s."""
    state = TrainerState(is_world_process_zero=is_first)
    monitor.on_train_begin(None, state, None, step_timer=types.SimpleNamespace(take=lambda: (0.1, 0.0)))
    found = []
    for own in times:
        trainer = types.SimpleNamespace(
            gather_objects=lambda value, own=own: [(0.1, seconds, f"host{rank}") for rank, seconds in enumerate(own)],
        )
        found.append(monitor.metrics_to_log(None, state, trainer))
    return found


def test_the_record_names_the_slowest():
    (record,) = records(StragglerMonitorCallback(), (0.01, 0.04, 0.01))

    assert record == {
        "step_time_s_mean": pytest.approx(0.1),
        "step_time_s_max": 0.1,
        "own_time_s_mean": pytest.approx(0.02),
        "own_time_s_max": 0.04,
        "slowest_rank": 1,
    }


def test_the_times_of_every_rank_are_there_on_request():
    (record,) = records(StragglerMonitorCallback(per_rank=True), (0.01, 0.04))

    assert (record["own_time_s_rank0"], record["own_time_s_rank1"]) == (0.01, 0.04)


def test_a_rank_that_is_slow_in_three_records_in_a_row_is_warned_of_once(caplog):
    slow, even = (0.01, 0.06, 0.02), (0.03, 0.03, 0.03)

    records(StragglerMonitorCallback(), slow, slow, even, slow, slow)
    assert caplog.messages == []
    records(StragglerMonitorCallback(), *[slow] * 7)

    assert caplog.messages == [
        "rank 1 (host1) holds up the others: its local step time is 0.06 s, 4 times that of the others (0.015 s), "
        "which wait for it"
    ]


@pytest.mark.parametrize(
    "times",
    [
        [(0.02, 0.029)] * 5,  # not slow enough
        [(0.001, 0.004)] * 5,  # four times as slow, but 3 ms of 100 hold up no rank
        [(0.01, 0.06), (0.06, 0.01)] * 4,  # now this one, now that one
        [(0.05,)] * 5,  # alone
    ],
)
def test_no_rank_is_named_without_cause(times, caplog):
    records(StragglerMonitorCallback(), *times)

    assert caplog.messages == []


def test_only_the_first_process_warns(caplog):
    records(StragglerMonitorCallback(), *[(0.01, 0.06)] * 5, is_first=False)

    assert caplog.messages == []


@pytest.mark.parametrize("ratio", [1.0, 0, float("nan")])
def test_a_ratio_is_above_one(ratio):
    with pytest.raises(ArgumentError, match="warn_ratio="):
        StragglerMonitorCallback(warn_ratio=ratio)


@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_one_process_is_timed_too(framework, tmp_path, caplog):
    if framework not in installed_frameworks():
        pytest.skip(f"{framework} is not installed")
    caplog.set_level(logging.WARNING, "trackside.callbacks")
    trainer = tiny_trainer(framework, tmp_path / "out", [StragglerMonitorCallback()], logging_steps=2)

    trainer.train()

    timed = [record for record in trainer.state.log_history if "loss" in record]
    assert timed
    for record in timed:
        assert record["slowest_rank"] == 0
        assert 0 < record["own_time_s_max"] < record["step_time_s_max"]
    assert not trainer._engine.step_timer.is_on
    assert caplog.messages == []


def test_the_former_name_still_works_in_python_and_in_a_config(track):
    by_config = track()

    with pytest.warns(FutureWarning, match="Monitor.* is deprecated .*; use StragglerMonitorCallback") as told:
        by_class = track(RankTimeMonitorCallback())
    with pytest.warns(FutureWarning, match="RankTimeMonitorCallback is deprecated"):
        attach_from_map(by_config.dispatcher, {"rank_time_monitor": {"warn_ratio": 2.0}})

    assert told[0].filename == __file__
    for run in (by_class, by_config):
        assert isinstance(run.dispatcher.attachments["rank_time_monitor"].callback, StragglerMonitorCallback)
