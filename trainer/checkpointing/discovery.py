"""Read-only discovery of the checkpoints in a folder: names, order, and the newest that verifies."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import CheckpointError

from .manifest import BrokenCheckpointError, Contents, contents_of, read_manifest, verify
from .names import CHECKPOINT_PREFIX, COMMITTED, REPLACED, STATE_FILE, step_of

logger: logging.Logger = logging.getLogger("trackside.trainer")


def find_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first, without reading their files.

    Checkpoints are ordered by the commit time in the manifest, then by step. A checkpoint without a readable manifest
    (transformers writes none) is ordered by step, right after the last committed one whose step is not greater.
    """
    names = {path.name: path for path in subfolders(output_dir)}
    found = [path for name, path in names.items() if COMMITTED.fullmatch(name)]
    set_aside = (path for name, path in names.items() if REPLACED.fullmatch(name))
    found += [path for path in set_aside if f"{CHECKPOINT_PREFIX}{step_of(path)}" not in names]
    times = {path: commit_time_of(path) for path in found}
    ordered = sorted((path for path in found if times[path] >= 0), key=lambda path: (times[path], step_of(path)))
    for path in sorted((path for path in found if times[path] < 0), key=step_of):
        last_below = max((at for at, other in enumerate(ordered) if step_of(other) <= step_of(path)), default=-1)
        ordered.insert(last_below + 1, path)
    return ordered


def newest_valid(
    output_dir: str | Path, run_id: str | None = None, *, last_step: float = math.inf
) -> tuple[Path | None, list[BrokenCheckpointError]]:
    """Return the newest checkpoint that verifies, and the reasons why newer ones do not.

    Args:
        run_id: Consider only checkpoints of the run with this id.
        last_step: Consider only checkpoints of steps up to this one.

    Returns:
        The path, None if no checkpoint verifies; and the errors of the skipped checkpoints, newest first.
    """
    found = find_checkpoints(output_dir)
    candidates = found if run_id is None else [path for path in found if run_id_of(path) == run_id]
    candidates = [path for path in candidates if step_of(path) <= last_step]
    skipped = []
    for path in reversed(candidates):
        try:
            verify(path)
        except BrokenCheckpointError as error:
            skipped.append(error)
        else:
            return path, skipped
    if find_checkpoints(output_dir) != found:  # an active run has deleted them meanwhile, and has newer ones
        return newest_valid(output_dir, run_id, last_step=last_step)
    return None, skipped


def newest_resumable(output_dir: Path, last_step: float = math.inf) -> Path | None:
    """Return the newest checkpoint that verifies; None in a folder without checkpoints. Tell what was passed over.

    Args:
        last_step: Consider only checkpoints of steps up to this one.

    Raises:
        CheckpointError: If there are checkpoints, but none verifies.
    """
    path, skipped = newest_valid(output_dir, last_step=last_step)
    tell(skipped)
    if path is None and skipped:
        reasons = "; ".join(f"{item.path.name}: {item.reason}" for item in skipped)
        raise CheckpointError(f"no checkpoint in {output_dir} verifies ({reasons})")
    if path is None:
        logger.warning("resume_from_checkpoint=True: %s holds no checkpoint; the run starts afresh", output_dir)
    return path and resumable(contents_of(path))


def resumable(contents: Contents) -> Path:
    """Return the path of a checkpoint that has what a run itself needs; the engine looks for the rest.

    Raises:
        CheckpointError: If a role is missing; the message names it.
    """
    if contents.find(STATE_FILE) is None:
        raise CheckpointError(f"{contents.path} is not a checkpoint: it has no {STATE_FILE}")
    if contents.is_sealed:
        contents.require("progress", "arguments", "rng")
    return contents.path


def tell(skipped: list[BrokenCheckpointError]) -> None:
    """Log why checkpoints were skipped."""
    for item in skipped:
        logger.warning("skipped %s: %s", item.path, item.reason)


def subfolders(path: str | Path) -> list[Path]:
    """Return the folders in a folder; empty if it does not exist."""
    return [item for item in Path(path).iterdir() if item.is_dir()] if Path(path).is_dir() else []


def commit_time_of(path: Path) -> int:
    """Return the commit time in nanoseconds; -1 without a readable manifest."""
    return int(_told(path, "committed_at", -1))


def run_id_of(path: Path) -> str | None:
    """Return the id of the run that wrote a checkpoint; None without a readable manifest."""
    run_id: str | None = _told(path, "run_id", None)
    return run_id


def _told(path: Path, key: str, default: Any) -> Any:
    try:
        return read_manifest(path).get(key, default)
    except BrokenCheckpointError:
        return default
