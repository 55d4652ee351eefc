"""Names of the folders of checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINT_PREFIX = "checkpoint-"
COMMITTED = re.compile(rf"{CHECKPOINT_PREFIX}(?P<step>[0-9]+)")
REPLACED = re.compile(rf"{CHECKPOINT_PREFIX}(?P<step>[0-9]+)\.replaced-(?P<pid>[0-9]+)-[0-9a-f]+")
TEMPORARY = re.compile(rf"\.{CHECKPOINT_PREFIX}[0-9]+\.tmp-(?P<pid>[0-9]+)-(?P<run>[0-9a-f]{{8}})[0-9a-f]+")


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint, renamed or not; -1 if there is none.

    Example:
        >>> step_of(Path("checkpoint-500")), step_of(Path("good"))
        (500, -1)
    """
    match = COMMITTED.fullmatch(path.name) or REPLACED.fullmatch(path.name)
    return int(match["step"]) if match else -1
