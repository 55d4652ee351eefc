"""Importing an object by its dotted path, and finding out whether a package is installed."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Container, Sequence
from contextvars import ContextVar
from typing import Any

from ..errors import ConfigError, MissingPackageError, did_you_mean
from .user_code import told

importable: ContextVar[Container[str] | None] = ContextVar("importable", default=None)
"""The only paths that may be imported; None: all."""


def import_from(path: Any) -> Any:
    """Return the object at a dotted path, such as ``package.module.Class`` or ``module.Class.method``.

    Raises:
        ConfigError: If it cannot be imported, or is not among those of `importable`; the message says why and names
            the nearest.

    Example:
        >>> import_from("collections.abc.Mapping.get").__qualname__
        'Mapping.get'
    """
    parts = path.split(".") if isinstance(path, str) else []
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError("a dotted path such as package.module.Class is needed")
    if (allowed := importable.get()) is not None and path not in allowed:
        raise ConfigError("only registered classes are imported here (registered only), and this is not one")
    for length in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:length])
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if length > 1 and error.name and f"{module_name}.".startswith(f"{error.name}."):
                continue  # the last name so far may be a class, not a module
            is_absent = error.name == module_name
            near = did_you_mean(module_name, (item.name for item in pkgutil.iter_modules())) if is_absent else ""
            raise ConfigError(f"importing {module_name} failed: {told(error, near and f'.{near}')}") from error
        except (Exception, SystemExit) as error:
            raise ConfigError(f"importing {module_name} failed: {told(error)}") from error
        return _attribute(module, module_name, parts[length:])
    raise AssertionError("the shortest module name either imports or raises")


def _attribute(found: Any, owner: str, names: Sequence[str]) -> Any:
    for name in names:
        if not hasattr(found, name):
            public = [item for item in dir(found) if not item.startswith("_")]
            raise ConfigError(f"{owner} has no {name!r}.{did_you_mean(name, public)}")
        found, owner = getattr(found, name), f"{owner}.{name}"
    return found


def is_installed(package: str) -> bool:
    """Return whether ``package`` can be imported, without importing it. A folder without modules does not count.

    Example:
        >>> is_installed("json"), is_installed("no_such_package")
        (True, False)
    """
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # made by hand, as in a notebook or a test, and imported already
        return True
    return spec is not None and spec.origin is not None


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
