from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside import TimeLimitCallback
from trackside.callbacks.builtin import time_limit
from trackside.callbacks.builtin.time_limit import seconds_in
from trackside.callbacks.errors import ArgumentError


def test_training_stops_with_a_checkpoint_when_the_time_is_over(track, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time_limit, "monotonic", lambda: now[0])
    run = track(TimeLimitCallback(0.05))

    run.send("on_train_begin")
    now[0] += 0.04
    run.step()
    assert not run.control.should_training_stop
    now[0] += 0.02
    run.step()

    assert run.control.should_training_stop
    assert run.control.should_save
    assert run.control.stop_reason == "the time limit of 0.05 s is over at step 2"


def test_nothing_is_saved_where_nothing_is_to_be_saved(track):
    run = track(TimeLimitCallback(seconds=1e-9), save_strategy="no")

    run.send("on_train_begin")
    run.step()

    assert run.control.should_training_stop
    assert not run.control.should_save


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h30m", 5400), ("90m", 5400), ("2d 12h", 216000), ("1.5H", 5400), ("45s", 45), ("7", 7), (2.5, 2.5)],
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert seconds_in(text) == seconds


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_units_add_up(hours, minutes, seconds):
    limit = TimeLimitCallback(f"{hours}h{minutes}m{seconds}s", seconds=1, minutes=1, hours=1)

    assert limit.limit_s == (hours + 1) * 3600 + (minutes + 1) * 60 + seconds + 1


@pytest.mark.parametrize("limit", ["soon", "1h30", "h", "-5s", "", None, True])
def test_what_cannot_be_read_is_an_error_that_says_what_can(limit):
    with pytest.raises(ArgumentError, match=r"limit=.*such as '1h30m'"):
        TimeLimitCallback(limit)


@pytest.mark.parametrize("limit", [0, -1, "0s", float("nan")])
def test_a_limit_above_zero_is_needed(limit):
    with pytest.raises(ArgumentError, match="a time above 0"):
        TimeLimitCallback(limit)
