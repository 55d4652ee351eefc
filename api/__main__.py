"""The command ``trackside`` as a module: ``python -m trackside``, or ``torchrun -m trackside``."""

from __future__ import annotations

import sys

from trackside.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
