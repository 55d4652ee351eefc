"""The thread that runs a callback's calls."""

from __future__ import annotations

import logging

from trackside.callbacks.bus.callback_thread import Call, CallbackThread


def test_a_callback_thread_goes_on_after_a_call_that_exits(caplog):
    thread = CallbackThread("exits", timeout_s=30)
    with caplog.at_level(logging.WARNING):
        for make in (lambda: exit(1), lambda: None):
            thread.submit(Call("on_log", make))
        assert thread.wait(30)
    thread.close()

    assert [type(outcome.error).__name__ for outcome in thread.outcomes()] == ["SystemExit", "NoneType"]
