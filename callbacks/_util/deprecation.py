"""Deprecation: names that still work and warn, with the version since which and the version in which they are removed.

Python shows such a warning once for each line of code that uses the name.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Deprecation:
    """A name that will be removed: a function, a class, an argument or a field.

    Attributes:
        name: The name, as users write it.
        instead: What to use instead.
        since: The first version in which it warns.
        removed_in: The version that no longer has it; a test fails when it is reached.

    Example:
        >>> print(Deprecation(name="old", instead="new", since="0.1.0", removed_in="1.0.0"))
        old is deprecated since trackside 0.1.0 and is removed in 1.0.0; use new instead
    """

    name: str
    instead: str
    since: str
    removed_in: str

    def __str__(self) -> str:
        when = f"since trackside {self.since} and is removed in {self.removed_in}"
        return f"{self.name} is deprecated {when}; use {self.instead} instead"

    def warn(self, stacklevel: int = 1) -> None:
        """Warn that the name is used.

        Args:
            stacklevel: The frame that the warning names: 1 is the caller of this method's caller.
        """
        warnings.warn(str(self), FutureWarning, stacklevel=stacklevel + 2)


def deprecated(instead: str, *, since: str, removed_in: str) -> Callable[[T], T]:
    """Return a decorator of a function, or of a class, that warns whenever it is called.

    Args:
        instead: What to use instead.
        since, removed_in: See `Deprecation`.

    Example:
        >>> @deprecated("new()", since="0.1.0", removed_in="1.0.0")
        ... def old(): ...
    """

    def decorate(target: T) -> T:
        deprecation = Deprecation(name=target.__name__, instead=instead, since=since, removed_in=removed_in)
        function: Any = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            deprecation.warn()
            return function(*args, **kwargs)

        if isinstance(target, type):
            target.__init__ = call  # type: ignore[misc]
            return target
        return cast("T", call)

    return decorate
