"""One attached callback, its accounts, and the order in which callbacks are called."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CallbackError, CallbackOrderError, did_you_mean
from ..events import check_every, signal_named
from .callback_thread import Worker
from .introspection import check_choice, check_hooks, foreign_role, instantiate, location_of, snake_case

logger = logging.getLogger("trackside.callbacks")

Names = str | Iterable[str]

DEFAULT_TIMEOUT_S = 30.0
"""So long may one call in the background take."""


@dataclass
class Attachment:
    """One attached callback: where it stands, what it may do, what it has cost.

    Attributes:
        name: The name under which its state and costs are kept; unique in its trainer.
        role: "control" or "observer".
        on_error: "raise", "warn" or "detach".
        origin: Where it came from, in words (Python, package and version, file and line).
        before, after: Names of callbacks it must precede or follow.
        on: The only events it hears; None for all that it overrides.
        every: It hears only steps that are multiples of this.
        number: Its place in the list of callbacks, which is the order of attaching.
        worker: What calls it in the background; None if it is called on the training thread.
        calls: Times one of its methods was called.
        seconds: Time spent on the training thread: in its methods, or in handing them over and waiting.
        background_s: Time spent in its methods in the background.
        dropped: Calls that were left out since it could not keep up, or was given up.
        failures: Exceptions it raised.
        failures_in_a_row: Those since one of the events in ``failing`` last went well.
        failing: The events at which it raised since then.
        detached_after: The number of failures after which it was detached; None while attached.
        last_error: The exception it raised last.
    """

    callback: Any
    name: str
    role: str
    on_error: str
    origin: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    on: frozenset[str] | None = None
    every: int = 1
    number: int = 0
    worker: Worker | None = None
    calls: int = 0
    seconds: float = 0.0
    background_s: float = 0.0
    dropped: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    failing: set[str] = field(default_factory=set)
    detached_after: int | None = None
    last_error: BaseException | None = None

    def recovered(self) -> None:
        """Note that an event at which it raised went well again."""
        self.failures_in_a_row = 0
        self.failing.clear()

    def forget(self, name: str) -> None:
        """Drop ``name`` from before and after: it is no longer attached."""
        self.before = tuple(other for other in self.before if other != name)
        self.after = tuple(other for other in self.after if other != name)

    @property
    def placement(self) -> dict[str, Any]:
        """The options of `Dispatcher.attach` that attach the callback like this to another trainer."""
        names = ("name", "role", "on_error", "origin", "before", "after", "on", "every")
        background = {"background": self.worker is not None, "timeout_s": self.worker and self.worker.timeout_s}
        return {**{name: getattr(self, name) for name in names}, **background}

    @property
    def where(self) -> str:
        """File and line of the callback's class, for error messages."""
        return location_of(type(self.callback))


def attachment_of(
    callback: Any,
    *,
    taken: Mapping[str, Attachment],
    name: str | None = None,
    role: str | None = None,
    on_error: str | None = None,
    before: Names = (),
    after: Names = (),
    on: Iterable[str] | None = None,
    every: int = 1,
    background: bool | None = None,
    timeout_s: float | None = None,
    origin: str | None = None,
) -> Attachment:
    """Check a callback and its options (see `Dispatcher.attach`), and fill in what its class declares.

    Args:
        taken: What is attached already, by name.

    Raises:
        CallbackError: If it has an ``on_...`` method that is no event, or none that is one, or if a control callback
            is to run in the background.
        UnknownNameError: If ``on`` names no event.
    """
    if isinstance(callback, type):
        callback = instantiate(callback)
    check_hooks(type(callback))
    check_every(every)
    heard = None if on is None else frozenset(signal_named(event).name for event in _names(on))
    role = role or getattr(callback, "role", None) or foreign_role(callback)
    on_error = on_error or getattr(callback, "on_error", None) or ("warn" if role == "observer" else "raise")
    check_choice(callback, "role", role, ("control", "observer"))
    check_choice(callback, "on_error", on_error, ("raise", "warn", "detach"))
    name = _free_name(callback, name or getattr(callback, "name", None), taken)
    return Attachment(
        callback=callback,
        name=name,
        role=role,
        on_error=on_error,
        origin=origin or f"Python, {location_of(type(callback))}",
        before=_names(before),
        after=_names(after),
        on=heard,
        every=every,
        number=max((other.number for other in taken.values()), default=0) + 1,
        worker=_worker_for(callback, name, role, background, timeout_s),
    )


def _worker_for(callback: Any, name: str, role: str, background: bool | None, timeout_s: float | None) -> Worker | None:
    if background and role != "observer":
        raise CallbackError(f"{type(callback).__name__} steers the run and cannot do so in the background")
    if background is None:
        background = role == "observer" and getattr(callback, "background", False) is True
    if not background:
        return None
    if timeout_s is None:
        timeout_s = float(getattr(callback, "timeout_s", DEFAULT_TIMEOUT_S))
    return Worker(name, timeout_s)


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _free_name(callback: Any, name: object, taken: Mapping[str, Attachment]) -> str:
    cls = type(callback)
    if any(type(other.callback) is cls for other in taken.values()):
        logger.warning("a second callback of class %s is attached; both stay", cls.__name__)
    base = name if isinstance(name, str) and name else snake_case(cls.__name__)
    free, number = base, 2
    while free in taken:
        free, number = f"{base}_{number}", number + 1
    return free


def in_order(attachments: dict[str, Attachment]) -> dict[str, Attachment]:
    """Sort callbacks: flow control, then control callbacks, then observers, each in the order of the list.

    ``before`` and ``after`` override that; a callback moves no further than they ask.

    Raises:
        CallbackOrderError: If they form a cycle, or name a callback that is not there.
    """
    followers = _followers(attachments)
    waits_for = dict.fromkeys(attachments, 0)
    for second in (second for seconds in followers.values() for second in seconds):
        waits_for[second] += 1
    rank = _ranks(attachments)
    ready = [(rank[name], name) for name in attachments if not waits_for[name]]
    heapq.heapify(ready)
    done: list[str] = []
    while ready:
        name = heapq.heappop(ready)[1]
        done.append(name)
        for second in followers[name]:
            waits_for[second] -= 1
            if not waits_for[second]:
                heapq.heappush(ready, (rank[second], second))
    if len(done) < len(attachments):
        circle = [name for name in attachments if name not in done]
        listing = ", ".join(map(repr, circle))
        message = f"the options before and after of these callbacks contradict each other: {listing}"
        raise CallbackOrderError(message, circle)
    return {name: attachments[name] for name in done}


def _followers(attachments: dict[str, Attachment]) -> dict[str, set[str]]:
    """Return for each callback those that have to wait for it."""
    followers: dict[str, set[str]] = {name: set() for name in attachments}
    for name, item in attachments.items():
        for option, others in (("before", item.before), ("after", item.after)):
            for other in others:
                if other not in followers:
                    raise CallbackOrderError(
                        f"callback {name!r}: {option}={other!r} is not attached; there is: {', '.join(attachments)}."
                        f"{did_you_mean(other, attachments)}",
                        [name],
                    )
                first, second = (name, other) if option == "before" else (other, name)
                followers[first].add(second)
    return followers


def _ranks(attachments: dict[str, Attachment]) -> dict[str, tuple[int, float, int]]:
    """Return where each callback would like to stand: group, place, number in the list.

    One that asks to come before another wants the place just below the other's; one that asks to come after just waits.
    """
    just_below = 1 / (len(attachments) + 1)
    rank = {name: (_group(item), float(item.number), item.number) for name, item in attachments.items()}
    for _ in attachments:
        for name, item in attachments.items():
            wanted = [(rank[other][0], rank[other][1] - just_below, rank[name][2]) for other in item.before]
            rank[name] = min([rank[name], *wanted])
    return rank


def _group(attachment: Attachment) -> int:
    if getattr(attachment.callback, "is_flow", False):
        return 0
    return 1 if attachment.role == "control" else 2
