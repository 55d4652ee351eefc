"""The command ``trackside``, also as a module: ``python -m trackside``, or ``torchrun -m trackside``."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command and return its exit code. Ctrl-C ends it without a traceback also while Python imports it."""
    try:
        from trackside.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        import signal

        return 128 + signal.SIGINT


if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]  # as for the command `trackside`: what lies here shadows no installed package
    sys.exit(main())
