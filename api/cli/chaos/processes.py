"""The processes of a job: its process group, and those that have left it, such as the workers of torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "TRACKSIDE_CHAOS_START"
"""The variable of the environment that tells the processes of one start of a job, wherever they are."""

LONGEST_S = 10.0
"""A process that is still there so long after it was killed waits for a device, and will end by itself."""

STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
"""Signals that end chaos, and its job before."""


def kill_job(process: subprocess.Popen[bytes], mark: str) -> None:
    """Kill all processes of a job, and wait until the first of them has ended.

    Where there is no ``/proc``, those that have left its process group are not found.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + LONGEST_S
    while [pid for pid in _marked(mark) if _kill(pid)] and time.monotonic() < deadline:
        time.sleep(0.002)  # one that was starting another is seen again by that


def _marked(mark: str) -> list[int]:
    """Return the processes whose environment has ``mark``; one that has ended already has no environment."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is of another user
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def noted_stops() -> Iterator[list[int]]:
    """Collect the signals that would end this process, so that it ends its job first; then raise what they ask for.

    A signal that is ignored stays so.

    Raises:
        KeyboardInterrupt: For SIGINT, at the end of the block.
        SystemExit: For the others; its code is 128 and the number of the signal.
    """
    noted: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in [getattr(signal, name) for name in STOPS if hasattr(signal, name)]:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, lambda received, frame: noted.append(received))
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted:
        raise KeyboardInterrupt if noted[0] == signal.SIGINT else SystemExit(128 + noted[0])
