"""Trackio: runs in a local SQLite file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker, values_of


class TrackioCallback(Tracker):
    """Log to Trackio, which keeps runs in a local SQLite file (in TRACKIO_DIR) and shows them with `trackio show`.

    A resumed run goes on with the same Trackio run.

    Args:
        project: None: as TRACKIO_PROJECT says, else "trackside".
        run_name: What the run's name begins with; None: ``args.run_name``, or the name of ``args.output_dir``.
        space_id: A Hugging Face Space to send the run to; None: local only.

    Raises:
        MissingPackageError: If Trackio is not installed.
    """

    name = "trackio"
    package = "trackio"
    extra = "trackio"

    def __init__(self, project: str | None = None, *, run_name: str | None = None, space_id: str | None = None) -> None:
        super().__init__()
        self.project = project or os.environ.get("TRACKIO_PROJECT") or "trackside"
        self.run_name = run_name
        self.space_id = space_id
        self.trackio_name: str | None = None
        """The name of the run, which is unique."""
        self._run: Any = None
        self._last_steps: dict[str, int] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "name": self.trackio_name} if self.run_id else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.trackio_name = state.get("name")

    def open(self, args: Any, state: TrainerState, is_known: bool, **kwargs: Any) -> None:
        """Start a run, or go on with the one of this name."""
        import trackio

        if not is_known or self.trackio_name is None:
            stem = self.run_name or getattr(args, "run_name", None) or Path(args.output_dir).resolve().name
            self.trackio_name = f"{stem}-{str(self.run_id)[:8]}"
        self._last_steps = None
        self._run = trackio.init(
            project=self.project,
            name=self.trackio_name,
            space_id=self.space_id,
            config=values_of(args),
            resume="allow",
            embed=False,
        )

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        self._run.log(values, step=step)

    def last_step(self, name: str) -> int:
        """Return the last step of a curve in the run."""
        if self._last_steps is None:
            self._last_steps = self._read_last_steps()
        return self._last_steps.get(name, -1)

    def _read_last_steps(self) -> dict[str, int]:
        from trackio.sqlite_storage import SQLiteStorage

        last: dict[str, int] = {}
        for row in SQLiteStorage.get_logs(self.project, self.trackio_name):
            for name in row:
                last[name] = max(last.get(name, -1), int(row.get("step") or 0))
        return last

    def close(self, status: Status, state: TrainerState) -> None:
        """End the run; Trackio has no status."""
        self._run.finish()
        self._run = None
