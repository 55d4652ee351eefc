"""Stop signals: the first one requests a save and a stop, a second SIGINT or SIGTERM stops at once.

While a run lasts, the handlers of Python are replaced. A signal that the process ignores (``nohup``) stays ignored, a
handler of the user's own is called as well, and a child process that is forked meanwhile has the original handlers.
When the run is over, it passes the signal on, so that the script does not go on by accident.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from trackside.callbacks.bus.faults import StopAtOnce

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Names of the signals that stop a run."""

NOTICES = ("SIGHUP", "SIGUSR1")
"""Signals that announce the end (SLURM's ``--signal=USR1@60``): repeated, they do not stop a run at once."""

COPY_S = 2.0
"""A launcher that is signalled together with its processes sends them another SIGTERM within these seconds."""

_active: list[StopSignals] = []
"""The contexts that have been entered in this process, outermost first."""


class EvaluationStopped(Exception):
    """A scheduled evaluation ended early, so that the run can save before the process is killed."""


class StopSignals:
    """A context that catches stop signals; it has no effect outside the main thread.

    Args:
        answer: Text that is written to the terminal when the first signal arrives, after the signal's name; None
            writes nothing.

    Attributes:
        received: Name of the received signal; None before a signal. A context within another one begins with what the
            outer one has received.
    """

    def __init__(self, answer: str | None = None) -> None:
        self.answer = answer
        self.received: str | None = None
        self._received_s = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            if _active:
                self.received, self._received_s = _active[-1].received, _active[-1]._received_s
            _active.append(self)
            for number in (signal.Signals[name] for name in STOP_SIGNALS if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: a handler that is not Python's
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self in _active:
            _active.remove(self)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name, now_s = signal.Signals(number).name, time.monotonic()
        if self.received is None or (self.received in NOTICES and name not in NOTICES):
            if self.received is None and self.answer is not None:
                _tell(f"{name}: {self.answer}")
            for context in reversed(_active.copy()):
                context.received, context._received_s = name, now_s
                handler = context._before.get(signal.Signals(number))
                if callable(handler) and not _is_ours(handler):
                    handler(number, frame)
        elif name not in NOTICES and not (name == "SIGTERM" and now_s - self._received_s < COPY_S):
            _restore_all()
            raise KeyboardInterrupt if number == signal.SIGINT else StopAtOnce(128 + number)


def pass_on(name: str | None, how: str) -> None:
    """Raise what a signal raises without a run: KeyboardInterrupt for SIGINT, or else SystemExit.

    Does nothing without a signal, or while an outer run of this process has still to end.

    Args:
        name: The signal that stopped a run; None for none.
        how: ``args.on_stop_signal``: "raise", or "return" to do nothing.

    Raises:
        KeyboardInterrupt: For SIGINT.
        SystemExit: For another signal, with 128 plus its number.
    """
    if name is None or how == "return" or _active:
        return
    raise KeyboardInterrupt if name == "SIGINT" else SystemExit(128 + signal.Signals[name])


def _tell(text: str) -> None:
    """Write a line to the terminal at once, which is safe in a signal handler, unlike print()."""
    try:
        os.write(sys.stderr.fileno(), f"\ntrackside: {text}\n".encode())
    except (AttributeError, OSError, ValueError):  # a notebook's stream has no file
        with contextlib.suppress(Exception):
            print(f"\ntrackside: {text}", file=sys.stderr, flush=True)


def _is_ours(handler: Any) -> bool:
    """Return whether a handler is Python's own for SIGINT, or that of another context."""
    return handler is signal.default_int_handler or isinstance(getattr(handler, "__self__", None), StopSignals)


def _restore_all() -> None:
    """Restore the original handlers: before a signal stops at once, and in a forked child."""
    for context in reversed(_active.copy()):
        context.__exit__()


_forking = threading.local()
"""The signals that were blocked in a thread before it began to fork."""


def _before_fork() -> None:
    """Block the stop signals, so that one sent to the child at once finds the original handlers."""
    if _active:
        _forking.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.Signals[name] for name in STOP_SIGNALS})


def _after_fork() -> None:
    blocked = getattr(_forking, "blocked", None)
    if blocked is not None:
        _forking.blocked = None
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _after_fork_in_child() -> None:
    _restore_all()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def answer(args: Any) -> str:
    """Return what the terminal shows when a stop signal arrives."""
    how = "saving and stopping" if args.save_strategy != "no" else "stopping, without saving (save_strategy='no'),"
    return f"{how} after this step; send it again to stop at once"
