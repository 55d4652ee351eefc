"""Program around the user's own: ``python -m trackside.cli.chaos.job TRACE (SCRIPT | -m MODULE) [ARGUMENT ...]``.

It runs the script or module as ``__main__`` and writes what its trainer computes, update by update, to the file TRACE.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from trackside.cli.chaos.trace import Trace

OUTPUT_DIR = "TRACKSIDE_OUTPUT_DIR"
"""The variable of the environment with the output folder that a job is to use."""


def main() -> None:
    """Connect the trace, and run the program as Python itself would."""
    trace, first, *rest = sys.argv[1:]
    Trace(Path(trace), Path(os.environ[OUTPUT_DIR])).connect()
    if first == "-m":
        sys.argv = rest
        sys.path[0] = os.getcwd()
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        sys.path[0] = os.path.dirname(os.path.realpath(first))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main()
