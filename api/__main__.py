"""The command ``trackside`` as a module: ``python -m trackside``, or ``torchrun -m trackside``."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]  # as for the command `trackside`: what lies here shadows no installed package
    from trackside.cli.main import main

    sys.exit(main())
