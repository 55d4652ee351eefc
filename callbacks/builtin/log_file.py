"""Log files: the base class of callbacks that write log records to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role


class LogFileCallback(TrainerCallback):
    """Keep a file equal to ``state.log_history``, complete after every record.

    When training begins, the file is written anew from the history: a new run starts with an empty file, and a resumed
    one drops what the killed run had logged after its checkpoint, so that each step appears once. From then on records
    are appended. Where a record cannot be written, since the disk is full for a moment, the next one writes all that
    the file lacks. Only the first process writes.

    Args:
        path: The file; None: ``default_name`` in ``args.output_dir``.
    """

    role: Role = "observer"
    default_name: str = ""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path: Path | None = None if path is None else Path(path).expanduser()
        self._is_of_run = False
        self._is_behind = False

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._is_of_run = self._is_behind = True
            self.rewrite(self.file_of(args), state.log_history)
            self._is_behind = False

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        was_behind, self._is_behind = self._is_behind, self._is_of_run
        if was_behind:
            self.rewrite(self.file_of(args), state.log_history)
        else:
            self.append(self.file_of(args), {"step": state.global_step, **logs})
        self._is_behind = False

    def file_of(self, args: Args) -> Path:
        """Return the path of the file, after making its folder."""
        path = self.path or Path(args.output_dir) / self.default_name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def rewrite(self, path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace the content of the file by ``records``."""
        raise NotImplementedError

    def append(self, path: Path, record: Mapping[str, Any]) -> None:
        """Add one record at the end of the file."""
        raise NotImplementedError
