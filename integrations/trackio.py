"""Trackio integration: runs in a local SQLite file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker, run_name_of, values_of
from ._compat.trackio_storage import read_last_steps


class TrackioCallback(Tracker):
    """Log to Trackio, which keeps runs in a local SQLite file (in TRACKIO_DIR) and shows them with `trackio show`.

    A resumed run continues the same Trackio run.

    Args:
        project: Project of the run; None: the environment variable TRACKIO_PROJECT, else "trackside".
        run_name: First part of the run's name; None: ``args.run_name``, or the name of ``args.output_dir``.
        space_id: Hugging Face Space to send the run to; None: local only.

    Attributes:
        trackio_name: Name of the run, which is unique in the project; None before the first record.

    Raises:
        MissingPackageError: If Trackio is not installed.
    """

    name: str | None = "trackio"
    package: str = "trackio"

    def __init__(self, project: str | None = None, *, run_name: str | None = None, space_id: str | None = None) -> None:
        super().__init__()
        self.project: str = project or os.environ.get("TRACKIO_PROJECT") or "trackside"
        self.run_name = run_name
        self.space_id = space_id
        self.trackio_name: str | None = None
        self._run: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "name": self.trackio_name} if self.run_id else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.trackio_name = state.get("name")

    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Start a run, or continue the one named ``trackio_name``."""
        import trackio

        if not resume or self.trackio_name is None:
            self.trackio_name = f"{run_name_of(args, self.run_name)}-{str(self.run_id)[:8]}"
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

    def last_steps(self) -> Mapping[str, int] | None:
        """Return the last steps in Trackio's local file."""
        return read_last_steps(self.project, str(self.trackio_name))

    def close(self, status: Status, state: TrainerState) -> None:
        """End the run; Trackio keeps no status."""
        self._run.finish()
        self._run = None
