"""Errors. Each message says what was asked, where, what is available instead, and what to do.

Every class derives from `TracksideError` and from the nearest built-in, so that ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .secrets import masked


class TracksideError(Exception):
    """The base class of all errors that trackside raises on purpose. They can be copied and pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, tuple(super().__reduce__())


def _remade(
    cls: type[TracksideError], args: tuple[Any, ...], values: Mapping[str, Any] | None = None
) -> TracksideError:
    """Return a copy of an error, without calling its constructor."""
    made = cls.__new__(cls, *args)
    made.args = made.args or args  # an OSError with its own __init__ has none yet
    vars(made).update(values or {})
    return made


class TracksideValueError(TracksideError, ValueError):
    """A value is not allowed."""


class TracksideTypeError(TracksideError, TypeError):
    """A value has the wrong type."""


class ArgumentError(TracksideValueError):
    """A field or an option has a value that is not allowed; the message names it, the value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"{field}={masked(value, field)!r} is not allowed: {allowed}")


class NotPlainError(TracksideTypeError):
    """A value cannot be kept as JSON; the message names its place, its type and what is allowed.

    Attributes:
        what: What the value belongs to.
        place: Its place in there, as the keys and positions that lead to it; empty if it is the whole.
    """

    def __init__(self, what: str, place: str, reason: str) -> None:
        self.what = what
        self.place = place
        super().__init__(f"{what}{place} {reason}")


class ConfigError(TracksideValueError):
    """A configuration file or a command line is wrong; the message names file, key and value."""


class UnknownNameError(TracksideError, LookupError):
    """A name is not among those known; the message lists them and names the nearest."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        self.known: list[str] = sorted(known)
        listing = ", ".join(self.known) or "none"
        super().__init__(f"no {kind} named {name!r}; available: {listing}.{did_you_mean(str(name), self.known)}")


class UnknownMetricError(TracksideError, KeyError):
    """The metric asked for is not among what evaluation returns."""

    def __init__(self, option: str, name: str, known: Iterable[str]) -> None:
        self.known: list[str] = sorted(known)
        listing, near = ", ".join(self.known) or "nothing", did_you_mean(name, self.known)
        self.message: str = f"{option}={name!r} is not among what evaluation returns: {listing}.{near}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return self.message


class CallbackError(TracksideTypeError):
    """An object cannot be attached as a callback."""


class CallbackOrderError(TracksideValueError):
    """``before`` and ``after`` contradict each other or name a callback that is not attached.

    Attributes:
        names: The callbacks with these options.
    """

    def __init__(self, message: str, names: Iterable[str]) -> None:
        self.names: list[str] = list(names)
        super().__init__(message)


class NotFiniteError(TracksideError, FloatingPointError):
    """A parameter, an input or an output of a layer is infinite or NaN; the message names the layer and the cause."""


class CheckpointError(TracksideError, OSError):
    """A checkpoint cannot be written, does not exist, or does not verify."""


class UnsupportedError(TracksideError, NotImplementedError):
    """An option exists but is not supported here; the message says why and what to do."""


class BusyError(TracksideError, RuntimeError):
    """A trainer is doing something within which it cannot do what was asked; the message names both."""


class RankError(TracksideError, RuntimeError):
    """Another process of the run failed, is gone, or timed out; the message names it and what it was doing."""


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
    """A call in the background timed out; the message names callback, event, and the calls that it did not get."""

    def __init__(self, name: str, event: str, timeout_s: float, undelivered: str = "") -> None:
        rest = f"; not delivered: {undelivered}" if undelivered else ""
        super().__init__(f"the callback {name!r} hangs: {event} took longer than {timeout_s:g} s{rest}")


class LoginError(TracksideError, PermissionError):
    """A service needs a login that is not set up on this machine; the message says what to do."""

    def __init__(self, service: str, advice: str) -> None:
        super().__init__(f"{service} has no login on this machine, and cannot ask for one beside a training. {advice}")


class MissingPackageError(TracksideError, ImportError):
    """A package that an option needs is not installed; the message holds the pip command."""

    def __init__(self, package: str, needed_for: str, extra: str | None = None) -> None:
        command = f"pip install 'trackside[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{needed_for} needs the package {package!r}, which is not installed. Run: {command}")


def check_count(option: str, value: object) -> None:
    """Raise ArgumentError unless ``value`` is a whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ArgumentError(option, value, "a whole number from 1")


def check_one_of(option: str, value: object, choices: Iterable[object]) -> None:
    """Raise ArgumentError unless ``value`` is one of ``choices``; the message has them, and the nearest."""
    known = list(choices)  # a list also compares values without a hash
    if value not in known:
        names = [str(choice) for choice in known]
        raise ArgumentError(option, value, f"one of {', '.join(names)}.{did_you_mean(str(value), names)}")


def describe(error: BaseException) -> str:
    """Return class and message of ``error`` on one line.

    Example:
        >>> describe(ValueError("too short"))
        'ValueError: too short'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of ``known``, or an empty string if none is near.

    A name that is the beginning of a known one is near to it, however long that is; of several, to the first.

    Example:
        >>> did_you_mean("eval_acc", ["eval_accuracy", "eval_loss"])
        " Did you mean 'eval_accuracy'?"
        >>> did_you_mean("AdamW", ["adafactor", "adamw_torch", "adamw_torch_fused", "radam"])
        " Did you mean 'adamw_torch'?"
    """
    names = list(known)
    given, folded = name.casefold(), {each.casefold(): each for each in reversed(names)}
    longer = [each for each in names if each.casefold().startswith(given)] if len(given) > 2 else []
    alike = [folded[each] for each in difflib.get_close_matches(given, folded, n=1, cutoff=0.5)]
    near = longer or difflib.get_close_matches(name, names, n=1, cutoff=0.5) or alike
    return f" Did you mean {near[0]!r}?" if near else ""
