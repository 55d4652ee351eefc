"""Restoring of schedule and loss scale; errors while files are restored, told as errors of the checkpoint."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import CheckpointError, TracksideError, describe
from trackside.callbacks.state import TrainerState

from ..optim.resuming import MadeOptimizer, schedule_before
from ..progress import Progress
from .manifest import Contents
from .names import ARGS_FILE, PROGRESS_FILE, STATE_FILE

logger: logging.Logger = logging.getLogger("trackside.trainer")


@contextlib.contextmanager
def restoring(folder: Path, what: str) -> Iterator[None]:
    """Turn an exception of a library about the content of a file into a CheckpointError that names the file.

    A digest proves that a file is what was written, not that it fits this model, this optimizer or this version of a
    library.

    Args:
        folder: The checkpoint.
        what: The file, or the role of several files.
    """
    try:
        yield
    except TracksideError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what} of {folder} cannot be restored: {describe(error)}") from error


@dataclass(frozen=True)
class SavedRun:
    """What a checkpoint says of its run.

    Attributes:
        path: The folder, by the name under which it was asked for.
        contents: Its files.
        state: The trainer's state.
        progress: The position of the loop.
        args: The arguments by name; empty if the checkpoint has none.
        has_progress: Whether the checkpoint has the position; otherwise only the epoch is known.
    """

    path: Path
    contents: Contents
    state: TrainerState
    progress: Progress
    args: dict[str, Any]
    has_progress: bool = True

    @classmethod
    def read(cls, path: Path, contents: Contents) -> SavedRun:
        """Read the JSON files of a checkpoint, which is verified already."""
        state = TrainerState.from_dict(contents.read(STATE_FILE) or {})
        written = contents.read(PROGRESS_FILE)  # transformers writes none
        progress = Progress.from_dict(written or {"epoch": int(state.epoch or 0)})
        args = contents.read(ARGS_FILE) or {}
        return cls(path, contents, state, progress, args, has_progress=bool(written))


def restore_schedule(
    contents: Contents,
    name: str,
    read: Callable[[Path], Any],
    made: MadeOptimizer,
    before: Mapping[str, Any] | None,
    step: int,
) -> list[str]:
    """Restore the schedule from the file ``name``, which ``read`` reads; see `MadeOptimizer.load_schedule`.

    Raises:
        CheckpointError: If the file is missing, or is not that of such a schedule.
    """
    path, now = contents.find(name), made.record["schedule"] or {}
    then = now if before is None else schedule_before(before)
    if path is None and contents.is_sealed and then.get("state"):
        contents.require("schedule")
    with restoring(contents.path, name):
        state = None if path is None else read(path)
        if path is not None and then.get("class") == now.get("class"):
            _check_keys(path, state, made.schedule)
        return made.load_schedule(state, before, step)


def restore_scaler(contents: Contents, name: str, read: Callable[[Path], Any], precision: Any) -> None:
    """Restore the loss scale from the file ``name``, which ``read`` reads.

    Raises:
        CheckpointError: If the file is not that of such a loss scale.
    """
    path = contents.find(name)
    if path is None:
        if precision.state_dict() and contents.is_sealed:  # fp16 is new
            logger.warning("%s has no %s, which begins anew", contents.path, name)
        return
    with restoring(contents.path, name):
        state = read(path)
        _check_keys(path, state, precision)
        precision.load_state_dict(state)


def _check_keys(path: Path, state: Any, part: Any) -> None:
    own: dict[str, Any] = getattr(part, "state_dict", dict)()
    if own and not set(own) & set(state):
        raise CheckpointError(f"{path} holds {', '.join(map(str, state))}; expected is {', '.join(own)}")
