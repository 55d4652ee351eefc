"""Optional packages: checked when an integration is constructed, imported when it is first used."""

from __future__ import annotations

import importlib
import random
import sys

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import MissingPackageError


def require_package(package: str, needed_for: str, extra: str | None) -> None:
    """Check that a package is installed, without importing it.

    Args:
        package: Name of its top-level module.
        needed_for: What needs it, for the message.
        extra: The extra of trackside that installs it, for the message.

    Raises:
        MissingPackageError: If it is not installed.
    """
    if not is_installed(package):
        raise MissingPackageError(package, needed_for, extra=extra)


def import_quietly(package: str) -> None:
    """Import ``package``, and restore the state of Python's global random numbers, which some packages change."""
    if package not in sys.modules:
        before = random.getstate()
        importlib.import_module(package)
        random.setstate(before)
