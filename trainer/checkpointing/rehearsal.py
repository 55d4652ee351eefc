"""Rehearsal of a checkpoint.

Before the first update, a run takes what its checkpoints will hold through writing and reading: all names and types,
not the values of tensors. So what would fail at the first save, or could not be read afterwards, is told at once.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trackside.callbacks._util.plain_data import to_json
from trackside.callbacks.errors import ArgumentError, CheckpointError, TracksideError, describe

from .store import CheckpointStore


def rehearse(checkpoints: Any) -> None:
    """Check, when a run is set up, that a checkpoint of it can be written and read, and begin to make memory for it.

    Nothing is done if ``save_strategy`` is "no". Memory is made where checkpoints are written in the background.

    Args:
        checkpoints: The `CheckpointManager`. A process that writes tries it, and all raise.

    Raises:
        ArgumentError: If ``output_dir`` cannot be written, or the schedule has no state_dict.
        CheckpointError: If the disk has no room for one checkpoint, or a state could not be read.
        NotPlainError: If a state, the arguments or the trainer's state cannot be kept.
    """
    trainer, files = checkpoints.trainer, checkpoints.engine.checkpoint
    if trainer.args.save_strategy == "no":
        return

    def attempt() -> None:
        if trainer.args.should_save:
            to_json(trainer.state.to_dict(), "state")
            to_json(trainer.args.to_dict(), "arguments")
            _try_folder(checkpoints.store, files.rehearse, sum(files.sizes_needed()))

    checkpoints.engine.strategy.collectives.outcome("the rehearsal of a checkpoint", attempt)
    if checkpoints.in_background:
        files.prepare_memory()


def _try_folder(store: CheckpointStore, write: Callable[[Path], None], needed: int) -> None:
    try:
        with store.rehearsal_folder() as folder:
            free = shutil.disk_usage(folder).free
            if free < needed:
                raise _no_room(store, f"{free:,} bytes are free, one checkpoint needs at least {needed:,}")
            write(folder)
    except TracksideError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise _no_room(store, describe(error)) from error
        allowed = f"a folder that checkpoints can be written to ({describe(error)})"
        raise ArgumentError("output_dir", str(store.output_dir), allowed) from error


def _no_room(store: CheckpointStore, reason: str) -> CheckpointError:
    failure = CheckpointError(
        f"the disk of output_dir={str(store.output_dir)!r} has no room for a checkpoint: {reason}. Free some, choose "
        "another output_dir, or set save_only_model=True or save_strategy='no'"
    )
    failure.errno = errno.ENOSPC
    return failure
