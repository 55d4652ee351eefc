"""Log files: the base classes of callbacks that write a file of a run, and of those that write its log records."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from time import perf_counter
from typing import Any

from .._util.atomic_files import append_line, is_stream, open_to_append, write_atomically
from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role

REWRITING_SHARE = 0.05
REWRITING_S = 0.1
"""What rewriting may take: this share of the time since the run began, and these seconds on top."""


class FileCallback(TrainerCallback):
    """Write one file, by default in the output folder.

    Args:
        path: The file; None: ``default_name`` in ``args.output_dir``.
    """

    role: Role = "observer"
    default_name: str = ""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path: Path | None = None if path is None else Path(path).expanduser()
        self._file: FileIO | None = None

    @property
    def writes_elsewhere(self) -> bool:
        """Whether the file is not in ``args.output_dir``, and so not written in a development run."""
        return self.path is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}  # another process opens it anew

    def log_file_of(self, args: Args) -> Path:
        """Return the path of the file."""
        return self.path or Path(args.output_dir) / self.default_name

    def stay(self) -> None:
        """Keep to the file whose path was given relative to the current folder, whatever becomes that folder."""
        self.path = None if self.path is None else self.path.absolute()

    def close(self) -> None:
        """Close the file if it is open; the next write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LogFileCallback(FileCallback):
    """Keep a file equal to ``state.log_history``, complete after every record.

    When training begins, the file is written anew from the history: a new run starts with an empty file, and a resumed
    one drops what the killed run had logged after its checkpoint, so that each step appears once. From then on records
    are appended. Where a record cannot be written, since the disk is full for a moment, the next one writes all that
    the file lacks. A record that needs the whole file to be written anew is held back, until the end of the run at the
    latest, if rewriting has taken more than a twentieth of the run. Only the first process writes.

    A link is followed. A pipe or a device (``/dev/stdout``) gets each record as it comes, and nothing anew.

    Args:
        path: The file; None: ``default_name`` in ``args.output_dir``.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(path)
        self._is_of_run = False
        self._is_behind = False
        self._begun_s = self._rewriting_s = 0.0

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.stay()
        path = self.log_file_of(args)
        if not state.is_world_process_zero or is_stream(path):
            return
        self._is_of_run = self._is_behind = True
        self._begun_s, self._rewriting_s = perf_counter(), 0.0
        self._rewrite(path, state.log_history)

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        path, record = self.log_file_of(args), {"step": state.global_step, **logs}
        if is_stream(path):
            self._file = self._file or open_to_append(path)
            append_line(self._file, self.streamed(record))
            return
        was_behind, self._is_behind = self._is_behind, self._is_of_run
        if not was_behind and self.append(path, record):
            self._is_behind = False
        elif self._rewriting_s <= REWRITING_S + REWRITING_SHARE * (perf_counter() - self._begun_s):
            self._rewrite(path, state.log_history)

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._is_behind and state.is_world_process_zero:
            self._rewrite(self.log_file_of(args), state.log_history)
        self._begun_s = float("-inf")  # what is evaluated after the run is written at once
        self.close()

    def undo(self, args: Args, state: TrainerState, **kwargs: Any) -> None:
        """Write what the file lacks when the callback is removed within a run."""
        if self._is_behind and state.is_world_process_zero:
            self._rewrite(self.log_file_of(args), state.log_history)
        self.close()

    def _rewrite(self, path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        start_s = perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.whole(records), sync=False)
        self._rewriting_s += perf_counter() - start_s
        self._is_behind = False

    @abstractmethod
    def whole(self, records: Sequence[Mapping[str, Any]]) -> str:
        """Return the content of a file that holds ``records``."""

    @abstractmethod
    def append(self, path: Path, record: Mapping[str, Any]) -> bool:
        """Add one record at the end of the file; return False if the file has to be written anew for it."""

    @abstractmethod
    def streamed(self, record: Mapping[str, Any]) -> str:
        """Return one record as text for a pipe or a device, which keeps what it got before."""
