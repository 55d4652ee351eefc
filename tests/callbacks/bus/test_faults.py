"""What an exception of a callback does: it ends the run, is warned of, or detaches the callback."""

from __future__ import annotations

import asyncio
import errno
import logging

import pytest
from support.callback_examples import Raises

from trackside import TrainerCallback
from trackside.callbacks.bus.faults import StopAtOnce, called


def test_a_control_callback_that_raises_ends_the_run_and_is_named(track):
    class Broken(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken") as caught:
        track(Broken()).step()

    assert "raised by the callback 'broken'" in "".join(caught.value.__notes__)


def test_an_error_that_comes_through_a_callback_twice_names_it_once(track):
    class Recurs(TrainerCallback):
        depth = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.depth += 1
            if self.depth == 3:
                raise RuntimeError("broken")
            run.step()

    run = track(Recurs())

    with pytest.raises(RuntimeError, match="broken") as caught:
        run.step()

    assert len(caught.value.__notes__) == 1


def test_an_observer_is_detached_after_three_failures_in_a_row_with_one_event(track, caplog):
    reported = []

    class Reports(TrainerCallback):
        def on_callback_error(self, args, state, control, callback, error, **kwargs):
            reported.append((callback, str(error)))

    run = track(Raises(), Reports())
    for _ in range(5):
        run.log(loss=1.0)

    attachment = run.dispatcher.attachments["raises"]
    assert reported == [("raises", "the tracker is down")]
    assert (attachment.detached_after, attachment.failures, attachment.calls) == (3, 3, 3)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the callback 'raises'" in caplog.text


def test_events_that_go_well_do_not_hide_one_that_always_fails(track):
    class HalfBroken(Raises):
        def on_step_end(self, args, state, control, **kwargs): ...

    run = track(HalfBroken())
    for _ in range(3):
        run.log(loss=1.0)
        run.step()

    assert run.dispatcher.attachments["half_broken"].detached_after == 3


def test_an_observer_whose_body_is_never_run_is_detached_after_three_calls(track):
    class Hidden(TrainerCallback):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            return (number for number in range(3))

    run = track(Hidden())
    for _ in range(5):
        run.step()

    assert run.dispatcher.attachments["hidden"].detached_after == 3


def test_faults_of_a_callback_are_those_of_an_observer_only_while_it_is_called(track):
    seen = []

    class Watches(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(None if called.value is None else called.value.name)

    class Breaks(Watches):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            super().on_step_end(args, state, control, **kwargs)
            raise RuntimeError("broken")

    run = track()
    run.dispatcher.attach_all(
        [
            (Watches(), {"name": "first"}),
            (Breaks(), {"name": "fails"}),
            (Watches(), {"name": "watches", "role": "observer"}),
            (Watches(), {"name": "steers", "after": "watches"}),
            (Watches(), {"name": "last", "role": "observer", "after": "steers"}),
        ]
    )
    run.step()

    assert seen == [None, "fails", "watches", None, "last"]
    assert called.value is None


def test_an_observer_that_recovers_stays(track):
    class Flaky(TrainerCallback):
        role = "observer"

        def on_log(self, args, state, control, **kwargs):
            if state.global_step % 3:
                raise RuntimeError

    run = track(Flaky())
    for _ in range(9):
        run.step()
        run.log(loss=1.0)

    attachment = run.dispatcher.attachments["flaky"]
    assert attachment.detached_after is None
    assert attachment.failures == 6


def test_detach_detaches_at_the_first_failure(track):
    run = track()
    run.dispatcher.attach(Raises(), on_error="detach")

    run.log(loss=1.0)
    run.log(loss=1.0)

    assert run.dispatcher.attachments["raises"].detached_after == 1


def test_an_interrupt_goes_through_every_policy(track):
    class Interrupted(TrainerCallback):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(Interrupted()).step()


def test_the_end_reaches_everyone_even_if_some_raise(track):
    heard = []

    class Ends(TrainerCallback):
        def __init__(self, error):
            self.error = error

        def on_train_end(self, args, state, control, **kwargs):
            heard.append(self.error)
            if self.error:
                raise self.error

    first, second = RuntimeError("first"), RuntimeError("second")
    run = track(Ends(first), Ends(second), Ends(None))

    assert run.dispatcher.send_to_all("on_train_end") is first
    assert heard == [first, second, None]


def test_an_observer_whose_state_cannot_be_had_does_not_end_the_run(track):
    class Stateless(TrainerCallback):
        role = "observer"

        def state_dict(self):
            raise RuntimeError

        def load_state_dict(self, state):
            raise RuntimeError

    run = track(Stateless())

    assert run.dispatcher.state_dicts() == {}
    run.dispatcher.load_state_dicts({"stateless": {}})
    assert run.dispatcher.attachments["stateless"].failures == 2


@pytest.mark.parametrize("error", [SystemExit("not logged in"), asyncio.CancelledError(), GeneratorExit()])
@pytest.mark.parametrize("background", [False, True])
def test_any_exception_of_an_observer_is_its_failure(track, error, background):
    class Leaves(TrainerCallback):
        role = "observer"

        def on_train_begin(self, args, state, control, **kwargs):
            raise error

        def state_dict(self):
            raise error

        def metrics_to_log(self, args, state, **context):
            raise error

    run = track()
    run.dispatcher.attach(Leaves(), background=background)
    run.send("on_train_begin")
    run.send("on_train_end")

    assert run.dispatcher.state_dicts() == {}
    assert run.dispatcher.logged_metrics({}) == {}
    assert run.dispatcher.attachments["leaves"].last_error is error
    assert run.dispatcher.attachments["leaves"].detached_after == 3


def test_a_second_stop_signal_ends_the_process_also_inside_an_observer(track):
    class Slow(TrainerCallback):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            raise StopAtOnce(143)

    with pytest.raises(StopAtOnce):
        track(Slow()).step()


def test_a_control_callback_that_exits_at_the_end_reaches_everyone(track):
    heard = []

    class Exits(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            raise SystemExit("leaving")

    class Closes(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            heard.append("closed")

    run = track(Exits(), Closes())

    assert isinstance(run.dispatcher.send_to_all("on_train_end"), SystemExit)
    assert heard == ["closed"]


def test_a_full_disk_does_not_detach_an_observer(track):
    class Writes(TrainerCallback):
        role = "observer"
        heard = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.heard += 1
            if state.global_step < 6:
                raise OSError(errno.ENOSPC, "No space left on device")

    writes = Writes()
    run = track(writes)
    run.step(8)

    assert writes.heard == 8
    assert (run.dispatcher.attachments["writes"].failures, run.dispatcher.attachments["writes"].detached_after) == (
        5,
        None,
    )


def test_keyboard_interrupt_on_its_thread_is_a_failure(track):
    class Interrupts(TrainerCallback):
        role, background = "observer", True

        def on_log(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    run = track(Interrupts())
    run.send("on_train_begin")
    run.log(loss=1.0)
    run.send("on_train_end")

    (attachment,) = run.dispatcher.attachments.values()
    assert "KeyboardInterrupt was raised in on_log" in str(attachment.last_error)
