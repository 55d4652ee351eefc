"""Progress in a notebook: a bar and a table of the records, as HTML."""

from __future__ import annotations

import html
import importlib.util
import time
from collections.abc import Mapping
from typing import Any

from ..callbacks.callback import TrainerCallback
from ..callbacks.errors import MissingPackageError
from ..callbacks.state import TrainerControl, TrainerState
from .rich_progress import metrics_in, time_left

REFRESH_S = 0.2
"""While steps are done, the display is written no more often than this."""

ROWS = 100
"""So many rows are shown, the newest; more would make each display slower than the last."""


class NotebookProgressCallback(TrainerCallback):
    """Show one bar with the time left, and below it a table with a row for each step that was logged.

    Raises:
        MissingPackageError: If IPython is not installed.
    """

    role = "observer"
    name = "notebook"

    def __init__(self) -> None:
        if importlib.util.find_spec("IPython") is None:
            raise MissingPackageError("ipython", type(self).__name__, extra="notebook")
        self.rows: dict[int, dict[str, float]] = {}
        """What was logged, by step."""
        self._handle: Any = None
        self._began_s = self._shown_s = 0.0
        self._first_step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        from IPython.display import HTML, display

        self.rows = {}
        for record in state.log_history:
            self._add(record, record["step"])
        self._began_s, self._first_step = time.perf_counter(), state.global_step
        self._handle = display(HTML(self.html(state)), display_id=True)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._handle is not None and time.perf_counter() - self._shown_s > REFRESH_S:
            self._show(state)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._add(logs or {}, state.global_step)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._handle is not None:
            self._show(state)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._handle is not None:
            self._show(state)
            self._handle = None

    def html(self, state: TrainerState) -> str:
        """Return bar and table as they are now."""
        rows = dict(list(self.rows.items())[-ROWS:])
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        head = "".join(f"<th>{html.escape(name)}</th>" for name in ["step", *names])
        body = "".join(
            f"<tr><td>{step}</td>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in names)}</tr>"
            for step, row in rows.items()
        )
        return f"<div>{self._bar(state)}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"

    def _bar(self, state: TrainerState) -> str:
        elapsed_s = time.perf_counter() - self._began_s
        left = time_left(state.global_step - self._first_step, state.max_steps - state.global_step, elapsed_s)
        text = f"step {state.global_step}/{state.max_steps}, epoch {state.epoch or 0:.2f}, {left} left"
        return f'<progress value="{state.global_step}" max="{state.max_steps}"></progress> {text}'

    def _add(self, logs: Mapping[str, Any], step: int) -> None:
        if numbers := metrics_in(logs):
            self.rows.setdefault(step, {}).update(numbers)

    def _show(self, state: TrainerState) -> None:
        from IPython.display import HTML

        self._shown_s = time.perf_counter()
        self._handle.update(HTML(self.html(state)))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
