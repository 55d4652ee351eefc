"""Rich progress: a live table of metrics in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.callbacks._util.imports import require_package
from trackside.callbacks.builtin.printer import printable
from trackside.callbacks.errors import ArgumentError
from trackside.callbacks.state import TrainerState

from ._base.live_display import LiveDisplayCallback


class RichProgressCallback(LiveDisplayCallback):
    """Show one live table: step, epoch, time left, and the newest, least and greatest value of each metric.

    Args:
        transient: Remove the table at the end.
        console: ``rich.console.Console`` to draw on; None: the standard output.

    Attributes:
        values: Newest, least and greatest value of each metric.

    Raises:
        MissingPackageError: If rich is not installed.
        ArgumentError: If ``transient`` is not True or False.
    """

    name: str | None = "rich_progress"

    def __init__(self, *, transient: bool = False, console: Any = None) -> None:
        super().__init__()
        require_package("rich", type(self).__name__, "rich")
        if not isinstance(transient, bool):
            raise ArgumentError("transient", transient, "True or False")
        self.transient = transient
        self.console = console
        self.values: dict[str, tuple[float, float, float]] = {}
        self._live: Any = None

    def clear(self) -> None:
        self.values = {}

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        for name, number in metrics.items():
            _, least, greatest = self.values.get(name, (number, number, number))
            self.values[name] = (number, min(least, number), max(greatest, number))

    def open(self, state: TrainerState) -> None:
        from rich.live import Live

        self._live = Live(self.table(state), console=self.console, transient=self.transient, auto_refresh=False)
        self._live.start()

    def draw(self, state: TrainerState) -> None:
        self._live.update(self.table(state), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def table(self, state: TrainerState) -> Any:
        """Return the table, a ``rich.table.Table``."""
        from rich.table import Table
        from rich.text import Text

        done = f"step {state.global_step}/{state.max_steps}  epoch {state.epoch or 0:.2f}"
        table = Table("metric", "now", "least", "greatest", title=f"{done}  {self.time_left(state)} left")
        stream = self._live.console.file if self._live else None
        for name, numbers in self.values.items():
            table.add_row(Text(printable(name, stream)), *(f"{number:.4g}" for number in numbers))
        return table
