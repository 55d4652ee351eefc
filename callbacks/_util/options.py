"""The options that a class or a function takes, from its signature and those of its base classes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .conversion import hints_of

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Options:
    """The options that a class or a function takes by name.

    Args:
        target: What is called with them. Where it takes ``**kwargs``, the options of its base classes count too.

    Attributes:
        parameters: The options by name.
        name: The name of the class or the function.
        takes_any: Whether it also takes options that it does not declare.
    """

    def __init__(self, target: Callable[..., Any]) -> None:
        self.name: str = getattr(target, "__qualname__", None) or repr(target)
        self._signatures = list(_signatures(target))
        self.takes_any: bool = not self._signatures or _has_kwargs(self._signatures[0][1])
        self.parameters: dict[str, inspect.Parameter] = {
            name: item
            for _, parameters in reversed(self._signatures)
            for name, item in parameters.items()
            if item.kind in NAMED
        }

    @functools.cached_property
    def hints(self) -> dict[str, Any]:
        """The type hints of the options, without those that cannot be resolved."""
        return {name: hint for owner, _ in reversed(self._signatures) for name, hint in hints_of(owner).items()}

    def missing(self, given: Iterable[str]) -> list[str]:
        """Return the options of the target's own signature that have no default and are not among ``given``."""
        own = self._signatures[0][1] if self._signatures else {}
        required = [name for name, item in own.items() if item.default is item.empty and item.kind in NAMED]
        return [name for name in required if name not in given]


def _signatures(target: Callable[..., Any]) -> Iterator[tuple[Callable[..., Any], Mapping[str, inspect.Parameter]]]:
    """Yield ``target`` with its parameters and, as long as these have ``**kwargs``, each base class with its own."""
    bases = [base for base in target.__mro__[1:] if "__init__" in vars(base)] if inspect.isclass(target) else []
    owners: list[Callable[..., Any]] = [target, *bases]
    for owner in owners:
        try:
            parameters = inspect.signature(owner).parameters
        except (ValueError, TypeError):  # written in C
            return
        yield owner, parameters
        if not _has_kwargs(parameters):
            return


def _has_kwargs(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(item.kind is item.VAR_KEYWORD for item in parameters.values())
