"""Stop signals: the first SIGTERM or SIGINT requests a save and a stop, the second stops immediately."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from trackside.callbacks.bus.faults import StopAtOnce

STOP_SIGNALS = ("SIGINT", "SIGTERM")
"""Names of the signals that stop a run."""


class StopSignals:
    """A context that catches stop signals; it has no effect outside the main thread.

    Attributes:
        received: Name of the received signal; None before a signal.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.Signals[name] for name in STOP_SIGNALS]
            self._before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is None:
            self.received = name
            return
        self.__exit__()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise StopAtOnce(128 + number)
