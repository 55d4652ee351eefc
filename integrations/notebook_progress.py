"""Notebook progress: a progress bar and a table of the log records, as HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from trackside.callbacks._util.imports import require_package
from trackside.callbacks.state import TrainerState

from ._base.live_display import LiveDisplayCallback

ROWS = 100
"""Rows of the table, the newest; without a limit each redraw would take longer than the last."""


class NotebookProgressCallback(LiveDisplayCallback):
    """Show a progress bar with the time left, and below it a table with a row for each step that was logged.

    Attributes:
        rows: Metrics by name, by step.

    Raises:
        MissingPackageError: If IPython is not installed.
    """

    name: str | None = "notebook"
    refresh_s: float = 0.2

    def __init__(self) -> None:
        super().__init__()
        require_package("IPython", type(self).__name__, self.name)
        self.rows: dict[int, dict[str, float]] = {}
        self._handle: Any = None

    def clear(self) -> None:
        self.rows = {}

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.setdefault(step, {}).update(metrics)

    def open(self, state: TrainerState) -> None:
        from IPython.display import HTML, display

        self._handle = display(HTML(self.html(state)), display_id=True)

    def draw(self, state: TrainerState) -> None:
        from IPython.display import HTML

        if self._handle is not None:  # it is None outside of a notebook
            self._handle.update(HTML(self.html(state)))

    def html(self, state: TrainerState) -> str:
        """Return the bar and the table as HTML."""
        rows = dict(list(self.rows.items())[-ROWS:])
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ["step", *names])
        body = "".join(
            f"<tr><td>{step}</td>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in names)}</tr>"
            for step, row in rows.items()
        )
        return f"<div>{self._bar(state)}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"

    def _bar(self, state: TrainerState) -> str:
        done = f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}"
        bar = f'<progress value="{state.global_step}" max="{state.max_steps}"></progress>'
        return f"{bar} {done}, {self.time_left(state)} left"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
