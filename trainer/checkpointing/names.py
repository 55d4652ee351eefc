"""Names of the folders of checkpoints, and of the files in them that hold no tensors."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

STATE_FILE = "trainer_state.json"
ARGS_FILE = "training_args.json"
PROGRESS_FILE = "progress.json"

CHECKPOINT_PREFIX = "checkpoint-"
COMMITTED = re.compile(rf"{CHECKPOINT_PREFIX}(?P<step>[0-9]+)")
REPLACED = re.compile(rf"{CHECKPOINT_PREFIX}(?P<step>[0-9]+)\.replaced-(?P<pid>[0-9]+)-[0-9a-f]+")
TEMPORARY = re.compile(rf"\.{CHECKPOINT_PREFIX}[0-9]+\.tmp-(?P<pid>[0-9]+)-(?P<run>[0-9a-f]{{8}})[0-9a-f]+")


def is_checkpoint(name: str) -> bool:
    """Return whether a folder has the name of a committed checkpoint, or of one that was renamed."""
    return bool(COMMITTED.fullmatch(name) or REPLACED.fullmatch(name))


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint, renamed or not; -1 if there is none.

    Example:
        >>> step_of(Path("checkpoint-500")), step_of(Path("good"))
        (500, -1)
    """
    match = COMMITTED.fullmatch(path.name) or REPLACED.fullmatch(path.name)
    return int(match["step"]) if match else -1


def replaced_name(name: str) -> str:
    """Return a new name for a checkpoint that another one of its step replaces."""
    return f"{name}.replaced-{os.getpid()}-{secrets.token_hex(4)}"


def temporary_name(step: int, run_id: str) -> str:
    """Return a new name for a folder of a run that is being written or deleted."""
    return f".{CHECKPOINT_PREFIX}{step}.tmp-{os.getpid()}-{tag_of(run_id)}{secrets.token_hex(4)}"


def tag_of(run_id: str) -> str:
    """Return the tag of a run in the names of its temporary folders, which have no manifest yet."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:8]
