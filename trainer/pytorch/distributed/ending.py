"""End of a process that was in a process group: leave the group, and wait for the threads of gloo.

A thread of gloo that ends a collective gives the tensors back after the collective has returned, for which it takes
Python's lock. If the interpreter is finalized meanwhile, the thread is ended inside C++, and with it the process, by
``terminate called without an active exception``.
"""

from __future__ import annotations

import atexit
import logging
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch.distributed as dist

logger: logging.Logger = logging.getLogger("trackside.trainer")

GLOO_THREAD = "pt_gloo_runloop"
"""Name that torch gives to the threads of gloo."""

PERIOD_S = 0.002
IDLE_READS = 3
"""Successive reads in which the threads have to wait: a thread also waits shortly while it takes a lock."""

SETTLE_S = 5.0
"""Longest wait for the threads at the end of the process."""


_own: list[Any] = []


def own(group: Any) -> None:
    """Let `leave` destroy ``group``, which a trainer made."""
    _own.append(group)


def abandon(group: Any) -> None:
    """Do not destroy ``group`` at the end: after an error in it, other ranks may not answer."""
    if group in _own:
        _own.remove(group)


@cache
def leave_at_exit() -> None:
    """Call `leave` at the end of this process."""
    atexit.register(leave)


def leave() -> None:
    """Destroy the process group if a trainer made it, and wait until the threads of gloo are idle."""
    if dist.is_initialized() and dist.group.WORLD in _own:
        try:
            dist.destroy_process_group()
        except Exception as error:
            logger.debug("the process group was not destroyed: %r", error)
    settle()


def settle() -> None:
    """Wait, without Python's lock, until the threads of gloo in this process are idle; at most `SETTLE_S`."""
    deadline, idle = time.monotonic() + SETTLE_S, 0
    while idle < IDLE_READS and time.monotonic() < deadline:
        time.sleep(PERIOD_S)
        idle = 0 if _some_run() else idle + 1


def _some_run() -> bool:
    """Return whether a thread of gloo runs or is ready to run; False where the system does not tell."""
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # the thread has ended
            status = (task / "stat").read_text()
            name, state = status[status.index("(") + 1 : status.rindex(")")], status[status.rindex(")") + 2]
            if name == GLOO_THREAD and state == "R":
                return True
    return False
