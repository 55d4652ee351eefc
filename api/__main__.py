"""``python -m trackside`` is the command ``trackside``; it is also what torchrun starts: ``torchrun -m trackside``."""

from __future__ import annotations

import sys

from trackside.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
