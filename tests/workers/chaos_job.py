"""The job of the tests of chaos: ``chaos_job.py KIND [LEFT_OUT]``, those of killed_run.py, slow enough to be killed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import killed_run

from trackside import events


def rest(trainer: Any, **kwargs: Any) -> None:
    time.sleep(0.03)


if __name__ == "__main__":
    events.on_step_end.connect(rest)
    folder = str(Path(os.environ["TRACKSIDE_OUTPUT_DIR"]).parent)
    sys.argv = ["killed_run.py", sys.argv[1], folder, *sys.argv[2:]]
    killed_run.main()
