"""Errors that say what was asked, what is there instead, and what to do.

Every class derives from `TracksideError` and from the nearest built-in, so that ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class TracksideError(Exception):
    """The root of everything trackside raises on purpose. It can be copied, and sent to another process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, tuple(super().__reduce__())


def _remade(
    cls: type[TracksideError], args: tuple[Any, ...], values: Mapping[str, Any] | None = None
) -> TracksideError:
    """Return an error like another one, whose message is not made again."""
    made = cls.__new__(cls, *args)
    made.args = made.args or args  # an OSError with an __init__ of its own begins without
    vars(made).update(values or {})
    return made


class TracksideValueError(TracksideError, ValueError):
    """A value that cannot be worked with."""


class TracksideTypeError(TracksideError, TypeError):
    """A value of the wrong type."""


class ArgumentError(TracksideValueError):
    """A field of TrainingArguments holds a value that is not allowed; the message names field, value and what is."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"{field}={value!r} is not allowed: {allowed}")


class ConfigError(TracksideValueError):
    """A configuration file or a command line is wrong; the message names file, key and value."""


class UnknownNameError(TracksideError, LookupError):
    """A name is not among those known; the message lists them and names the nearest."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        listing = ", ".join(self.known) or "none"
        super().__init__(f"no {kind} named {name!r}; there is: {listing}.{did_you_mean(str(name), self.known)}")


class UnknownMetricError(TracksideError, KeyError):
    """The metric asked for is not among what evaluation returns."""

    def __init__(self, option: str, name: str, known: Iterable[str]) -> None:
        self.known = sorted(known)
        self.message = (
            f"{option}={name!r} is not among what evaluation returns: {', '.join(self.known) or 'nothing'}."
            f"{did_you_mean(name, self.known)}"
        )
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return self.message


class CallbackError(TracksideTypeError):
    """What was given as a callback cannot be attached."""


class CallbackOrderError(TracksideValueError):
    """``before`` and ``after`` contradict each other or name a callback that is not there.

    Attributes:
        names: The callbacks that ask for it.
    """

    def __init__(self, message: str, names: Iterable[str]) -> None:
        self.names = list(names)
        super().__init__(message)


class NotFiniteError(TracksideError, FloatingPointError):
    """A layer holds, got or gave a number that is infinite or none; the message names it and what led to it."""


class CheckpointError(TracksideError, OSError):
    """A checkpoint cannot be written, is not there, or does not verify."""


class UnsupportedError(TracksideError, NotImplementedError):
    """What was asked for exists in the interface, but cannot be done here; the message says why and what to do."""


class RankError(TracksideError, RuntimeError):
    """Another process of the run failed, is gone, or did not come in time; the message names it and what it did."""


class CollectiveMismatchError(RankError):
    """Ranks that should meet in one collective called different ones; the message names them, and who called which."""

    def __init__(self, calls: Sequence[tuple[int, str]]) -> None:
        ranks: dict[tuple[int, str], list[str]] = {}
        for rank, call in enumerate(calls):
            ranks.setdefault(call, []).append(str(rank))
        listing = "; ".join(
            f"rank {', '.join(who)} called {name!r} as collective {number}" for (number, name), who in ranks.items()
        )
        super().__init__(
            f"the ranks called different collectives: {listing}. Every rank must call the same ones in order"
        )


class CallbackTimeoutError(TracksideError, TimeoutError):
    """A call of a callback in the background took too long; the message names both."""

    def __init__(self, name: str, event: str, timeout_s: float) -> None:
        super().__init__(f"the callback {name!r} hangs: {event} took longer than {timeout_s:g} s")


class MissingPackageError(TracksideError, ImportError):
    """A package that an option needs is not installed; the message holds the pip command."""

    def __init__(self, package: str, needed_for: str, extra: str | None = None) -> None:
        command = f"pip install 'trackside[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{needed_for} needs the package {package!r}, which is not installed. Run: {command}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of ``known``, or an empty string where none is near.

    Example:
        >>> did_you_mean("eval_acc", ["eval_accuracy", "eval_loss"])
        " Did you mean 'eval_accuracy'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
