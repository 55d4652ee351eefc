"""Which packages are installed; none is imported to find out."""

from __future__ import annotations

import importlib.util


def is_installed(package: str) -> bool:
    """Return whether ``package`` can be imported. A folder of that name, such as W&B leaves behind, is no package.

    Example:
        >>> is_installed("json"), is_installed("no_such_package")
        (True, False)
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None
