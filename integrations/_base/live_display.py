"""Live display: base class of callbacks that show the progress of a run while it trains."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from trackside.callbacks.builtin.printer import print_header
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.metrics import SPEEDS
from trackside.callbacks.state import TrainerControl, TrainerState
from trackside.callbacks.types import Record, Role

from .metric_names import numbers_in

HIDDEN = (*SPEEDS, "total_flos", "epoch", "step")
"""Endings of the names that are not shown: times, speeds and counters."""


class LiveDisplayCallback(TrainerCallback, ABC):
    """Show metrics and progress on the first process; a resumed run starts with the metrics of its history.

    Attributes:
        refresh_s: Shortest time between two redraws while steps are done, in seconds.
    """

    role: Role = "observer"
    refresh_s: float = 0.1

    def __init__(self) -> None:
        self._is_open = False
        self._began_s = self._drawn_s = 0.0
        self._first_step = 0

    @abstractmethod
    def clear(self) -> None:
        """Remove the metrics of an earlier run."""

    @abstractmethod
    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Add the metrics of a log record."""

    @abstractmethod
    def open(self, state: TrainerState) -> None:
        """Start the display."""

    @abstractmethod
    def draw(self, state: TrainerState) -> None:
        """Redraw the display."""

    def close(self) -> None:
        """Stop the display."""

    def time_left(self, state: TrainerState) -> str:
        """Return the estimated time to the end of the run, as ``h:mm:ss``."""
        elapsed_s = time.perf_counter() - self._began_s
        return time_left(state.global_step - self._first_step, state.max_steps - state.global_step, elapsed_s)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._close()
        if not state.is_world_process_zero:
            return
        print_header(kwargs.get("header"))
        self.clear()
        for record in state.log_history:
            self._add(record, record["step"])
        self._began_s, self._first_step = time.perf_counter(), state.global_step
        self.open(state)
        self._is_open = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._is_open and time.perf_counter() - self._drawn_s > self.refresh_s:
            self._draw(state)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        self._add(logs, state.global_step)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._draw(state)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._draw(state)
        self._close()

    on_exception = on_train_end  # so that the display is closed before the traceback is printed

    def undo(self, args: Any, state: TrainerState, **kwargs: Any) -> None:
        """Close the display when the callback is removed within a run."""
        self._close()

    def _add(self, logs: Record, step: int) -> None:
        if metrics := metrics_in(logs):
            self.add(metrics, step)

    def _draw(self, state: TrainerState) -> None:
        if self._is_open:
            self._drawn_s = time.perf_counter()
            self.draw(state)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.close()


def metrics_in(logs: Record) -> dict[str, float]:
    """Return the numbers of a log record that are shown: all but times, speeds and counters.

    Example:
        >>> metrics_in({"eval_loss": 0.5, "eval_runtime": 3.0, "epoch": 1.0, "note": "text"})
        {'eval_loss': 0.5}
    """
    return numbers_in({name: value for name, value in logs.items() if not name.endswith(HIDDEN)})


def time_left(done: int, missing: int, elapsed_s: float) -> str:
    """Return the estimated time for ``missing`` steps, from the time that the steps ``done`` took.

    Args:
        done: Steps that were completed in ``elapsed_s``.
        missing: Steps to come.
        elapsed_s: Time that the steps took, in seconds.

    Returns:
        ``h:mm:ss``, or ``?`` before the first step is done.

    Example:
        >>> time_left(done=10, missing=20, elapsed_s=45.0), time_left(0, 20, 1.0)
        ('0:01:30', '?')
    """
    if done <= 0:
        return "?"
    seconds = round(elapsed_s / done * max(missing, 0))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
