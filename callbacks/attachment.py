"""One attached callback, its accounts, and the order in which callbacks are called."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

from .errors import CallbackOrderError, did_you_mean
from .hooks import location_of


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
        calls: Times one of its methods was called.
        seconds: Time spent in its methods.
        failures: Exceptions it raised.
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
    calls: int = 0
    seconds: float = 0.0
    failures: int = 0
    failures_in_a_row: int = 0
    detached_after: int | None = None
    last_error: BaseException | None = None

    @property
    def where(self) -> str:
        """File and line of the callback's class, for error messages."""
        return location_of(type(self.callback))


def in_order(attachments: dict[str, Attachment]) -> dict[str, Attachment]:
    """Sort callbacks: flow control, then control callbacks, then observers, each in the order of the list.

    ``before`` and ``after`` override that; a callback moves no further than they ask.

    Raises:
        CallbackOrderError: If they form a cycle, or name a callback that is not there.
    """
    names = list(attachments)
    rank = {name: (_group(attachments[name]), float(index)) for index, name in enumerate(names)}
    followers: dict[str, set[str]] = {name: set() for name in names}
    waits_for = dict.fromkeys(names, 0)
    for name, item in attachments.items():
        pairs = [(name, other, "before") for other in item.before] + [(other, name, "after") for other in item.after]
        for first, second, option in pairs:
            other = second if option == "before" else first
            if other not in followers:
                raise CallbackOrderError(
                    f"callback {name!r}: {option}={other!r} is not attached; there is: {', '.join(names)}."
                    f"{did_you_mean(other, names)}"
                )
            if second not in followers[first]:
                followers[first].add(second)
                waits_for[second] += 1
    # one that asks to come before another takes a rank just below the other's; one that asks to come after just waits
    for _ in names:
        for name in names:
            rank[name] = min(
                [rank[name], *((rank[other][0], rank[other][1] - 0.5) for other in attachments[name].before)]
            )
    ready = [(rank[name], name) for name in names if not waits_for[name]]
    heapq.heapify(ready)
    done: list[str] = []
    while ready:
        name = heapq.heappop(ready)[1]
        done.append(name)
        for second in followers[name]:
            waits_for[second] -= 1
            if not waits_for[second]:
                heapq.heappush(ready, (rank[second], second))
    if len(done) < len(names):
        circle = ", ".join(repr(name) for name in names if name not in done)
        raise CallbackOrderError(f"the options before and after of these callbacks contradict each other: {circle}")
    return {name: attachments[name] for name in done}


def _group(attachment: Attachment) -> int:
    if getattr(attachment.callback, "is_flow", False):
        return 0
    return 1 if attachment.role == "control" else 2
