"""Another process that holds the lock of an output folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOLDER = """
import os, sys, time
from pathlib import Path
from trackside.trainer.checkpointing.locks.run_lock import locked
with locked(Path(sys.argv[1]), "theirs"):
    if sys.argv[2] == "fork" and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    if sys.argv[2] != "fork":
        print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(folder: Path | str, how: str = "alone") -> Iterator[tuple[Any, str]]:
    """Another process that holds the lock; yields it and the line that it wrote."""
    command = [sys.executable, "-c", HOLDER, str(folder), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
