"""Listeners: plain functions that are connected to the signal of an event, each called with the keywords it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._util.signatures import keywords_taken, misfit, never_runs, place_of
from .errors import TracksideTypeError
from .types import keywords_of


class Listener:
    """A plain function that is called with the keywords it takes, at steps that are multiples of ``every``."""

    def __init__(self, function: Callable[..., Any], every: int = 1) -> None:
        self.function = function
        self.every = every
        self.taken: frozenset[str] | None = keywords_taken(function)

    def __call__(self, trainer: Any, /, **given: Any) -> Any:
        if self.every > 1 and given["state"].global_step % self.every:
            return None
        if self.taken is not None:
            given = {name: given[name] for name in self.taken if name in given}
        return self.function(trainer, **given)


def in_context(receiver: Any, context: dict[str, Any]) -> Callable[..., Any]:
    """Return a receiver that, if it is a plain listener, also gets ``context``; the methods of callbacks have it."""
    if not isinstance(receiver, Listener):
        return receiver  # type: ignore[no-any-return]

    def call(trainer: Any, **given: Any) -> Any:
        return receiver(trainer, **{name: value for name, value in (context | given).items() if name != "trainer"})

    return call


def check_listener(event: str, function: Any) -> None:
    """Check that ``function`` can be a listener of ``event``.

    Raises:
        TracksideTypeError: If not; the message has its file and line.
    """
    if not callable(function) or never_runs(function):
        raise TracksideTypeError(f"{event} needs a plain function as listener, not {function!r}")
    given = ["args", "state", "control", *(name for name in keywords_of(event) if name != "trainer")]
    taken = keywords_taken(function)
    if reason := misfit(function, 1, given if taken is None else [name for name in given if name in taken]):
        raise TracksideTypeError(
            f"{event}: the listener {getattr(function, '__qualname__', function)!r} ({place_of(function)}) cannot be "
            f"called: {reason}. It gets the trainer by position, and what it takes of {', '.join(given)} by keyword"
        )
