"""The queue of a callback in the background: its bound, what happens when it is full, and the end of a run."""

from __future__ import annotations

import threading
import time

import pytest

from trackside import TrainerCallback
from trackside.callbacks.bus import background, callback_thread
from trackside.callbacks.bus.report import costs
from trackside.callbacks.errors import ArgumentError, CallbackError


class Gate(TrainerCallback):
    """Works, at each call, until it is let through."""

    role = "observer"
    background = True
    timeout_s = 60.0

    def __init__(self, is_open=False):
        self.heard = []
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    def hear(self, *heard):
        assert self.gate.wait(60)
        self.heard.append(heard)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.hear("on_log", logs["loss"])

    def on_save(self, args, state, control, checkpoint=None, **kwargs):
        self.hear("on_save", checkpoint)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.hear("on_epoch_end")


def in_run(track, callback, **options):
    run = track()
    attachment = run.dispatcher.attach(callback, **options)
    run.send("on_train_begin")
    return run, attachment


def opened_after(callback, seconds):
    timer = threading.Timer(seconds, callback.gate.set)
    timer.start()
    return timer


def test_with_wait_training_waits_for_room_and_nothing_is_left_out(track):
    run, attachment = in_run(track, callback := Gate(), queue=2, when_full="wait")
    opened_after(callback, 0.2)

    start = time.perf_counter()
    for number in range(20):
        run.log(loss=number)
    took_s = time.perf_counter() - start
    run.send("on_train_end")

    assert took_s > 0.15
    assert callback.heard == [("on_log", number) for number in range(20)]
    assert (attachment.dropped, attachment.thread.longest) == (0, 2)
    assert attachment.seconds > 0.15


def test_what_is_rare_waits_for_room_although_records_are_dropped(track):
    run, attachment = in_run(track, callback := Gate(), queue=1, when_full="drop")
    for number in range(5):
        run.log(loss=number)
    opened_after(callback, 0.1)
    run.send("on_epoch_end")
    run.send("on_train_end")

    assert callback.heard[-1] == ("on_epoch_end",)
    assert attachment.thread.longest == 1
    assert attachment.dropped == 5 - (len(callback.heard) - 1)


def test_training_that_waits_for_room_goes_on_when_a_call_times_out(track):
    run, attachment = in_run(track, callback := Gate(), queue=1, when_full="wait", timeout_s=0.1, name="upload")
    for number in range(6):
        run.log(loss=number)
    run.send("on_train_end")
    callback.gate.set()

    assert attachment.detached_after == 1
    assert "the callback 'upload' hangs: on_log took longer than 0.1 s; not delivered: on_log" in str(
        attachment.last_error
    )
    assert callback.heard in ([], [("on_log", 0)])


def test_a_callback_that_logs_by_itself_does_not_wait_for_itself(track):
    class Logs(Gate):
        def on_log(self, args, state, control, logs=None, **kwargs):
            self.heard.append(logs["loss"])
            if logs["loss"] == 0:
                for number in (1, 2, 3):
                    run.log(loss=number)

    run, _ = in_run(track, callback := Logs(), queue=1, when_full="wait", timeout_s=20.0)
    start = time.perf_counter()
    run.log(loss=0)
    run.send("on_train_end")

    assert callback.heard == [0, 1, 2, 3]
    assert time.perf_counter() - start < 10


def test_the_end_of_a_run_says_for_what_it_waits(track, caplog, monkeypatch):
    monkeypatch.setattr(background, "FIRST_TOLD_S", 0.05)
    run, _ = in_run(track, callback := Gate(), name="upload")
    run.log(loss=1)
    run.log(loss=2)
    run.send("on_epoch_end")
    opened_after(callback, 0.4)
    run.send("on_train_end")

    told = [record.getMessage() for record in caplog.records if "waiting for" in record.getMessage()]
    assert told[0] == (
        "waiting for 3 events of the callback 'upload': on_log (2), on_epoch_end; for at most 60 s, or until Ctrl-C"
    )
    assert 2 <= len(told) <= 3  # after 0.05, 0.15 and 0.35 s
    assert len(callback.heard) == 3


def test_what_was_not_delivered_in_time_is_told_by_name(track, caplog, monkeypatch):
    run, _ = in_run(track, callback := Gate(), name="upload")
    run.log(loss=1)
    monkeypatch.setattr(callback_thread.CallbackThread, "end_wait_s", 0.5)
    run.send("on_save", checkpoint="/runs/checkpoint-4")
    start = time.perf_counter()
    run.send("on_exception", exception=ValueError())
    run.send("on_train_end")
    took_s = time.perf_counter() - start
    callback.gate.set()

    assert took_s < 0.95  # both ends of the run together
    assert (
        "the callback 'upload' is still working after 0.5 s; not delivered yet: on_log, on_save (checkpoint-4)"
        in caplog.text
    )


def test_the_end_of_a_run_waits_as_long_as_a_single_call_may_take():
    assert callback_thread.CallbackThread("upload", timeout_s=3600.0).end_wait_s == 3600.0
    assert callback_thread.CallbackThread("tracker", timeout_s=30.0).end_wait_s == 60.0


def test_the_costs_tell_how_a_callback_kept_up(track):
    run, attachment = in_run(track, callback := Gate(), queue=2, name="upload")
    for number in range(9):
        run.log(loss=number)
    callback.gate.set()
    run.send("on_train_end")

    line = costs(run.dispatcher.attachments, 1.0).splitlines()[-1]
    assert f"in the background {attachment.background_s:.3f} s, at most 2 calls waited" in line
    assert line.endswith(f"left out: on_log ({attachment.dropped})")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queue": 0}, ArgumentError, "queue=0 is not allowed: a whole number from 1"),
        ({"queue": 2.5}, ArgumentError, "queue=2.5 is not allowed: a whole number from 1"),
        ({"when_full": "block"}, CallbackError, "when_full"),
        ({"queue": 5, "background": False}, ArgumentError, "background=True"),
        ({"timeout_s": 5, "background": False}, ArgumentError, "timeout_s=5 is not allowed: not given"),
        ({"when_full": "wait", "background": False}, ArgumentError, "background=True"),
    ],
)
def test_wrong_options_are_told(options, error, message, track):
    with pytest.raises(error, match=message):
        track().dispatcher.attach(Gate(), **options)


def test_another_trainer_gets_the_same_queue(track):
    attachment = track().dispatcher.attach(Gate(), queue=7, when_full="wait")

    again = track().dispatcher.attach(Gate(), **vars(attachment.options))

    assert (again.thread.limit, again.thread.when_full) == (7, "wait")
