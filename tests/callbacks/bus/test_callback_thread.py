"""The thread that runs a callback's calls."""

from __future__ import annotations

import functools
import logging
import traceback
import weakref

from trackside.callbacks.bus.callback_thread import Call, CallbackThread


def test_a_callback_thread_goes_on_after_a_call_that_exits(caplog):
    thread = CallbackThread("exits", timeout_s=30)
    with caplog.at_level(logging.WARNING):
        for make in (lambda: exit(1), lambda: None):
            thread.submit(Call("on_log", make))
        assert thread.wait(30)
    thread.close()

    assert [type(outcome.error).__name__ for outcome in thread.outcomes()] == ["SystemExit", "NoneType"]


def test_the_error_of_a_call_does_not_hold_what_the_call_used():
    class Used:
        """What stands for the trainer."""

    def call(used):
        try:
            {}["a"]
        except KeyError:
            raise ValueError("b") from None

    used = Used()
    is_alive = weakref.ref(used)
    thread = CallbackThread("test", 30.0)
    thread.submit(Call("on_log", functools.partial(call, used)))
    assert thread.wait(30.0)
    del used
    assert is_alive() is None  # before anyone asks for the outcome
    (outcome,) = thread.outcomes()
    assert "in call" in "".join(traceback.format_exception(outcome.error))
    thread.close()
