"""The registry of callbacks: entry points of installed packages in the group ``trackside.callbacks``.

A package gives a name to a callback class in its own metadata::

    [options.entry_points]
    trackside.callbacks =
        slack = my_package.slack:SlackCallback

A package is imported only when one of its names is used, so that a broken one does not affect other runs.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import CallbackError, TracksideTypeError, UnknownNameError

GROUP = "trackside.callbacks"


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
            raise CallbackError(
                f"the callback {self.name!r} of {self.origin} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        if not callable(found):
            raise CallbackError(f"the callback {self.name!r} of {self.origin} is not a class but {found!r}")
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Option:
    """One option of a callback: its name, its type in words, and its default (`inspect.Parameter.empty` for none)."""

    name: str
    type: str
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether the callback cannot be made without it."""
        return self.default is inspect.Parameter.empty


def registered() -> dict[str, Registration]:
    """Return all registered callbacks by name, in alphabetical order; of a name with several claims, the first."""
    return {name: claims[0] for name, claims in sorted(claims_by_name().items())}


def claims_by_name() -> dict[str, list[Registration]]:
    """Return the registrations of each name. A package that is found twice on the path counts once."""
    claims: dict[str, list[Registration]] = {}
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        package = entry_point.dist.name if entry_point.dist else "an unknown package"
        version = entry_point.dist.version if entry_point.dist else "?"
        claim = Registration(entry_point.name, entry_point.value, package, version)
        rivals = claims.setdefault(claim.name, [])
        if all((rival.package, rival.value) != (package, claim.value) for rival in rivals):
            rivals.append(claim)
    return claims


def find(name: str) -> Registration:
    """Return the registration of a name.

    Raises:
        UnknownNameError: If it is not registered; the message names the nearest.
        CallbackError: If several packages register it; the message names them all.
    """
    claims = claims_by_name()
    if name not in claims:
        raise UnknownNameError("callback", name, claims)
    if len(claims[name]) > 1:
        packages = " and ".join(claim.origin for claim in claims[name])
        raise CallbackError(
            f"the callback {name!r} is claimed by {packages}. Uninstall one, or choose with its class_path"
        )
    return claims[name][0]


def load(name: str) -> Callable[..., Any]:
    """Import the callback called ``name`` and return its class.

    Raises:
        UnknownNameError, CallbackError: See `find` and `Registration.load`.
    """
    return find(name).load()


def options_of(callback: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a callback class by name, as its constructor declares them."""
    return {
        item.name: Option(item.name, _type_text(item.annotation), item.default)
        for item in _parameters(callback)
        if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
    }


def takes_any_option(callback: Callable[..., Any]) -> bool:
    """Return whether a callback class takes options that it does not declare."""
    return any(item.kind is item.VAR_KEYWORD for item in _parameters(callback))


def build(callback: str | Callable[..., Any], options: Mapping[str, Any] | None = None) -> Any:
    """Make a callback, given by name or class, with ``options``.

    Raises:
        UnknownNameError: If the name or an option is not known.
        TracksideTypeError: If a required option is missing.
    """
    target = load(callback) if isinstance(callback, str) else callback
    options = dict(options or {})
    known = options_of(target)
    label = callback if isinstance(callback, str) else getattr(callback, "__name__", str(callback))
    for key in options:
        if key not in known and not takes_any_option(target):
            raise UnknownNameError(f"option of the callback {label!r}", key, known)
    missing = [name for name, option in known.items() if option.is_required and name not in options]
    if missing:
        raise TracksideTypeError(f"the callback {label!r} needs the option {', '.join(missing)}")
    return target(**options)


def _parameters(callback: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(callback).parameters.values())
    except (TypeError, ValueError):  # written in C: its constructor checks the options
        return [inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)]


def _type_text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)
