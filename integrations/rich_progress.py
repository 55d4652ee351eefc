"""A live table of metrics with the time left, by rich."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

from ..callbacks.callback import TrainerCallback
from ..callbacks.errors import ArgumentError, MissingPackageError
from ..callbacks.state import TrainerControl, TrainerState
from .names import as_number

HIDDEN = ("_runtime", "_per_second", "total_flos", "epoch", "step")
REFRESH_S = 0.1
"""The table is drawn no more often than this."""


class RichProgressCallback(TrainerCallback):
    """Show the run as one live table: step, epoch, time left, and the newest value and the best of each metric.

    Args:
        transient: Take the table away at the end.
        console: A ``rich.console.Console`` to draw on; None: the standard output.

    Raises:
        MissingPackageError: If rich is not installed.
        ArgumentError: If ``transient`` is not a truth value.
    """

    role = "observer"
    name = "rich_progress"

    def __init__(self, *, transient: bool = False, console: Any = None) -> None:
        if importlib.util.find_spec("rich") is None:
            raise MissingPackageError("rich", type(self).__name__, extra="rich")
        if not isinstance(transient, bool):
            raise ArgumentError("transient", transient, "True or False")
        self.transient = transient
        self.console = console
        self.values: dict[str, tuple[float, float, float]] = {}
        """Newest, least and greatest value of each metric."""
        self._live: Any = None
        self._began_s = self._drawn_s = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop()
        if not state.is_world_process_zero:
            return
        from rich.live import Live

        self.values = {}
        for record in state.log_history:
            self._add(record)
        self._began_s, self._first_step = time.perf_counter(), state.global_step
        self._live = Live(self.table(state), console=self.console, transient=self.transient, auto_refresh=False)
        self._live.start()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._live is not None and time.perf_counter() - self._drawn_s > REFRESH_S:
            self._draw(state)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._add(logs or {})

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._live is not None:
            self._draw(state)

    def on_exception(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._stop()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._live is not None:
            self._draw(state)
        self._stop()

    def table(self, state: TrainerState) -> Any:
        """Return the table as it is now."""
        from rich.table import Table

        elapsed_s = time.perf_counter() - self._began_s
        left = time_left(state.global_step - self._first_step, state.max_steps - state.global_step, elapsed_s)
        title = f"step {state.global_step}/{state.max_steps}  epoch {state.epoch or 0:.2f}  {left} left"
        table = Table("metric", "now", "least", "greatest", title=title)
        for name, numbers in self.values.items():
            table.add_row(name, *(f"{number:.4g}" for number in numbers))
        return table

    def _add(self, logs: Mapping[str, Any]) -> None:
        for name, number in metrics_in(logs).items():
            _, least, greatest = self.values.get(name, (number, number, number))
            self.values[name] = (number, min(least, number), max(greatest, number))

    def _draw(self, state: TrainerState) -> None:
        self._drawn_s = time.perf_counter()
        self._live.update(self.table(state), refresh=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def metrics_in(logs: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a log record that a reader of a small table wants to see: no times, no counters.

    Example:
        >>> metrics_in({"eval_loss": 0.5, "eval_runtime": 3.0, "epoch": 1.0, "note": "text"})
        {'eval_loss': 0.5}
    """
    numbers = {name: as_number(value) for name, value in logs.items() if not name.endswith(HIDDEN)}
    return {name: number for name, number in numbers.items() if number is not None}


def time_left(done: int, missing: int, elapsed_s: float) -> str:
    """Return how long ``missing`` steps will take, if they take as long as those that are ``done``.

    Example:
        >>> time_left(done=10, missing=20, elapsed_s=45.0), time_left(0, 20, 1.0)
        ('0:01:30', '?')
    """
    if done <= 0:
        return "?"
    seconds = round(elapsed_s / done * max(missing, 0))
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
