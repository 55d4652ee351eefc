from __future__ import annotations

import gc
import threading
import time
import weakref

from trackside import TrainerCallback
from trackside.callbacks.errors import CallbackTimeoutError


class Observer(TrainerCallback):
    """Notes what it hears, and on which thread; may be slow, hang or raise."""

    role = "observer"
    background = True
    timeout_s = 5.0

    def __init__(self, seconds=0.0, raises=()):
        self.heard = []
        self.threads = set()
        self.seconds = seconds
        self.raises = raises

    def note(self, event, state, logs):
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        if event in self.raises:
            raise RuntimeError("the tracker is down")
        self.heard.append((event, state.global_step, logs))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.note("on_log", state, logs)

    def on_step_end(self, args, state, control, **kwargs):
        self.note("on_step_end", state, None)


class LogsOnly(Observer):
    on_step_end = TrainerCallback.on_step_end


class Held(LogsOnly):
    """Is at work at its first record until it is released."""

    timeout_s = 60.0

    def __init__(self):
        super().__init__()
        self.released = threading.Event()

    def on_log(self, args, state, control, logs=None, **kwargs):
        assert self.released.wait(30)
        super().on_log(args, state, control, logs)


def in_run(track, callback, **options):
    run = track()
    attachment = run.dispatcher.attach(callback, **options)
    run.send("on_train_begin")
    return run, attachment


def test_events_come_in_order_on_another_thread_and_all_before_the_end(track):
    callback = Observer(seconds=0.002)
    run, attachment = in_run(track, callback, name="tracker")

    for step in range(1, 21):
        run.step()
        run.log(loss=1 / step)
    run.send("on_train_end")

    steps = [(event, step) for event, step, _ in callback.heard]
    assert steps == [(event, step) for step in range(1, 21) for event in ("on_step_end", "on_log")]
    assert callback.threads == {"trackside-tracker"}
    assert attachment.calls == 40
    assert attachment.background_s > 0.08


def test_it_sees_state_history_and_logs_as_they_were_when_the_event_was_sent(track):
    seen = []

    class Late(LogsOnly):
        def on_log(self, args, state, control, logs=None, **kwargs):
            time.sleep(0.02)
            seen.append((state.global_step, len(state.log_history), state.to_dict()["log_history"][-1]["loss"], logs))

    run, _ = in_run(track, Late())
    for step in range(1, 4):
        run.step()
        run.log(loss=step)
    run.send("on_train_end")

    assert seen == [(step, step, step, {"loss": step}) for step in range(1, 4)]


def test_a_slow_one_does_not_hold_up_training(track):
    run, attachment = in_run(track, callback := Held())

    for _ in range(10):
        run.step()
        run.log(loss=1.0)
    heard = len(callback.heard)
    callback.released.set()
    run.send("on_train_end")

    assert (heard, len(callback.heard)) == (0, 10)
    assert attachment.failures == 0


def test_waits_at_evaluations_stay_below_a_small_share_of_the_run(track):
    def evaluations_s():
        run, _ = in_run(track, callback := Held())
        start = time.perf_counter()
        for _ in range(20):
            run.step()
            run.evaluate(eval_loss=1.0)
        took_s = time.perf_counter() - start
        assert callback.heard == []
        callback.released.set()
        run.send("on_train_end")
        assert len(callback.heard) == 20
        return took_s

    assert min(evaluations_s() for _ in range(5)) < 0.25  # the quickest is the least disturbed one


def test_a_quick_one_is_done_after_an_evaluation_and_when_its_state_is_asked_for(track):
    run, attachment = in_run(track, LogsOnly())
    run.log(loss=1.0)
    run.send("on_evaluate", metrics={})
    after_evaluation = len(attachment.callback.heard)
    run.log(loss=1.0)
    run.dispatcher.state_dicts()

    assert (after_evaluation, len(attachment.callback.heard)) == (1, 2)


def test_a_hanging_one_is_detached_with_its_name_and_event(track, caplog):
    hanging = threading.Event()

    class Hangs(LogsOnly):
        timeout_s = 0.1

        def on_log(self, args, state, control, **kwargs):
            hanging.wait(60)

    run, attachment = in_run(track, Hangs(), name="uploader")
    start = time.perf_counter()
    for _ in range(5):
        run.step()
        run.log(loss=1.0)
    run.send("on_train_end")
    took_s = time.perf_counter() - start
    hanging.set()

    assert took_s < 20
    assert isinstance(attachment.last_error, CallbackTimeoutError)
    assert (
        str(attachment.last_error)
        == "the callback 'uploader' hangs: on_log took longer than 0.1 s; not delivered: on_log (4)"
    )
    assert attachment.detached_after == 1
    assert attachment.dropped == 4
    assert sum("uploader" in record.getMessage() for record in caplog.records) == 1


def test_one_that_raises_is_detached_after_three_failures_and_reported_once(track, caplog):
    told = []
    run, attachment = in_run(track, LogsOnly(raises=("on_log",)), name="down")

    @run.dispatcher.attach
    class Listener(TrainerCallback):
        def on_callback_error(self, args, state, control, callback=None, error=None, **kwargs):
            told.append((callback, str(error), threading.current_thread().name))

    for _ in range(6):
        run.step()
        run.log(loss=1.0)
        run.dispatcher.state_dicts()
    run.send("on_train_end")

    assert attachment.detached_after == 3
    assert told == [("down", "the tracker is down", "MainThread")]
    assert sum("'down'" in record.getMessage() for record in caplog.records) == 1


def test_a_failure_that_is_followed_by_success_is_forgiven(track):
    callback = LogsOnly(raises=("on_log",))
    run, attachment = in_run(track, callback)
    for turn in range(8):
        callback.raises = ("on_log",) if turn % 2 else ()
        run.log(loss=1.0)
        assert attachment.thread.wait(30.0)
    run.send("on_train_end")

    assert (attachment.failures, attachment.detached_after) == (4, None)


def test_when_the_queue_is_full_records_are_dropped_and_counted_but_never_the_end(track, caplog):
    ended = []

    class Ends(Held):
        def on_train_end(self, args, state, control, **kwargs):
            ended.append(True)

    run, attachment = in_run(track, callback := Ends(), queue=3)
    for _ in range(20):
        run.log(loss=1.0)
    callback.released.set()
    run.send("on_train_end")

    heard = len(callback.heard)
    assert heard in (3, 4)  # those that wait, and the one that it is at work at if it had begun by then
    assert attachment.dropped == 20 - heard
    assert ended == [True]
    assert attachment.thread.dropped == {"on_log": 20 - heard}
    assert sum("cannot keep up: 3 calls wait" in record.getMessage() for record in caplog.records) == 1
    assert f"could not keep up with queue=3; left out: on_log ({20 - heard})" in caplog.text


def test_flags_that_it_sets_have_no_effect(track):
    class Steers(LogsOnly):
        def on_log(self, args, state, control, **kwargs):
            control.stop("because")
            state.global_step = 99

    run, _ = in_run(track, Steers())
    run.log(loss=1.0)
    run.send("on_train_end")

    assert not run.control.should_training_stop
    assert run.state.global_step == 0


def test_events_at_which_it_is_waited_for_hold_up_training(track):
    class Reads(Observer):
        waits_at = frozenset({"on_step_end"})

    run, attachment = in_run(track, Reads(seconds=0.03))
    run.step()
    heard = len(attachment.callback.heard)
    run.send("on_train_end")

    assert heard == 1


def test_outside_of_a_run_every_event_is_waited_for(track):
    run = track(callback := LogsOnly(seconds=0.01))

    run.log(loss=1.0)

    assert len(callback.heard) == 1


def test_a_tracker_attached_as_control_or_with_background_false_runs_on_the_training_thread(track):
    run = track()
    first, second = LogsOnly(), LogsOnly()
    run.dispatcher.attach(first, role="control")
    run.dispatcher.attach(second, background=False)
    run.log(loss=1.0)

    assert first.threads == second.threads == {"MainThread"}


def test_the_thread_ends_with_the_run_and_a_second_run_starts_another(track):
    run, attachment = in_run(track, LogsOnly(), name="twice")
    run.log(loss=1.0)
    run.send("on_train_end")
    ended = wait_until(lambda: "trackside-twice" not in names_of_threads())
    run.send("on_train_begin")
    run.log(loss=2.0)
    run.send("on_train_end")

    assert ended
    assert len(attachment.callback.heard) == 2


def test_the_trainer_is_collected_together_with_its_callbacks_and_their_threads(track):
    run, attachment = in_run(track, LogsOnly(), name="collected")
    run.log(loss=1.0)
    attachment.thread.wait(30)
    ref = weakref.ref(run)

    del run, attachment
    gc.collect()

    assert ref() is None
    assert wait_until(lambda: "trackside-collected" not in names_of_threads())


def test_handing_over_a_call_takes_less_than_50_microseconds(track):
    run, attachment = in_run(track, Observer())
    run.state.log_history.extend({"loss": 1.0} for _ in range(100_000))

    costs = []
    for _ in range(10):  # the quickest round is the least disturbed one
        before = attachment.seconds
        run.step(50)
        costs.append((attachment.seconds - before) / 50)

    assert min(costs) < 50e-6
    run.send("on_train_end")


def names_of_threads():
    return {thread.name for thread in threading.enumerate()}


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()
