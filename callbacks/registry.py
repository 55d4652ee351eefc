"""The registry of callbacks: entry points of installed packages in the group ``trackside.callbacks``.

A package gives a name to a callback class in its own metadata::

    [options.entry_points]
    trackside.callbacks =
        slack = my_package.slack:SlackCallback

A package is imported only when one of its names is used, so that a broken one does not affect other runs.

The group ``trackside.components`` registers what else a configuration may name by ``class_path`` under
``--registered-only``: models, datasets and losses, each under any name.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ._util.imports import importable
from .errors import CallbackError, UnknownNameError, describe

GROUP = "trackside.callbacks"

COMPONENTS = "trackside.components"


@dataclass(frozen=True)
class Registration:
    """A name that a package gives to a callback.

    Attributes:
        name: The name, as in a config.
        value: The callback as "module:Class".
        package, version: The installed package.
    """

    name: str
    value: str
    package: str
    version: str

    @property
    def full_name(self) -> str:
        """The name under which it is reached if other packages register the same name."""
        return f"{self.package}:{self.name}"

    @property
    def origin(self) -> str:
        """Package, version and class, for messages."""
        return f"{self.package} {self.version}, {self.value}"

    def load(self) -> Callable[..., Any]:
        """Import the callback.

        Raises:
            CallbackError: If that fails, whatever the reason; the message names the package.
        """
        entry_point = importlib.metadata.EntryPoint(self.name, self.value, GROUP)
        try:
            found = entry_point.load()
        except (Exception, SystemExit) as error:
            message = f"the callback {self.name!r} of {self.origin} cannot be imported: {describe(error)}"
            raise CallbackError(message) from error
        if not callable(found):
            raise CallbackError(f"the callback {self.name!r} of {self.origin} is not a class but {found!r}")
        return found  # type: ignore[no-any-return]


def registered() -> dict[str, Registration]:
    """Return all registered callbacks by name, in alphabetical order; of a name with several claims, the first."""
    return {name: claims[0] for name, claims in sorted(claims_by_name().items())}


def claims_by_name() -> dict[str, list[Registration]]:
    """Return the registrations of each name. A package that is found twice on the path counts once.

    The path is searched again when a folder of it was changed since, as by an installation.
    """
    return {name: [*claims] for name, claims in _claims(_path_as_it_is()).items()}


def _path_as_it_is() -> tuple[tuple[str, int], ...]:
    """Return the entries of the path, each with the time of its last change."""
    found = []
    for entry in map(str, sys.path):
        try:
            found.append((entry, os.stat(entry or ".").st_mtime_ns))
        except OSError:
            found.append((entry, 0))
    return tuple(found)


@functools.lru_cache(maxsize=1)
def _claims(path: tuple[tuple[str, int], ...]) -> dict[str, list[Registration]]:
    """Search the path; that takes 20 ms, since the metadata of every package are read."""
    claims: dict[str, list[Registration]] = {}
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        package = entry_point.dist.name if entry_point.dist else "an unknown package"
        version = entry_point.dist.version if entry_point.dist else "?"
        claim = Registration(entry_point.name, entry_point.value, package, version)
        rivals = claims.setdefault(claim.name, [])
        if all((rival.package, rival.value) != (package, claim.value) for rival in rivals):
            rivals.append(claim)
    return {name: sorted(rivals, key=lambda claim: claim.package) for name, rivals in claims.items()}


def find(name: str, claims: Mapping[str, list[Registration]] | None = None) -> Registration:
    """Return the registration of a name.

    Args:
        name: The name, or "package:name", which chooses between several packages.
        claims: The result of `claims_by_name`, to look up several names with one search of the path.

    Raises:
        UnknownNameError: If it is not registered; the message names the nearest.
        CallbackError: If several packages register it; the message names them all.
    """
    claims = claims_by_name() if claims is None else claims
    found = named(name, claims)
    if not found:
        of_packages = [claim.full_name for claim in named(name.rpartition(":")[2], claims) if ":" in name]
        raise UnknownNameError("callback", name, of_packages or claims)
    if len(found) > 1:
        packages = " and ".join(claim.origin for claim in found)
        advice = f"Uninstall one, or choose with {' or '.join(repr(claim.full_name) for claim in found)}"
        raise CallbackError(f"the callback {name!r} is claimed by {packages}. {advice}, or with its class_path")
    return found[0]


def named(name: str, claims: Mapping[str, list[Registration]]) -> list[Registration]:
    """Return the registrations of a name, or the one of "package:name"."""
    if name in claims:
        return claims[name]
    package, _, own = name.rpartition(":")
    return [claim for claim in claims.get(own, []) if _normal(claim.package) == _normal(package)]


def _normal(package: str) -> str:
    """Return the name of a package as pip compares it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def load(name: str) -> Callable[..., Any]:
    """Import the callback called ``name`` and return its class.

    Raises:
        UnknownNameError, CallbackError: See `find` and `Registration.load`.
    """
    return find(name).load()


def components() -> set[str]:
    """Return the class paths of all registered components."""
    found = importlib.metadata.entry_points(group=COMPONENTS)
    return {entry_point.value.replace(":", ".").replace(" ", "") for entry_point in found}


@contextmanager
def only_registered(is_asked: bool) -> Iterator[None]:
    """Let only registered components be imported by their class path, if that ``is_asked``."""
    token = importable.set(components()) if is_asked else None
    try:
        yield
    finally:
        if token is not None:
            importable.reset(token)
