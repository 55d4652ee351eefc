"""The order in which callbacks are called."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Iterable, Mapping
from fractions import Fraction

from ..errors import CallbackOrderError, did_you_mean
from .attachment import Attachment, Position


def position_of(attachment: Attachment) -> Position:
    """Return the position of a callback that neither has ``before`` or ``after`` nor is named there: last of its group.

    The groups are control callbacks and observers; in each, callbacks have the order of the list.
    """
    return int(attachment.role == "observer"), float(attachment.number), attachment.number


def in_order(attachments: Mapping[str, Attachment]) -> dict[str, Attachment]:
    """Sort callbacks: control callbacks, then observers, each in the order of the list.

    ``before`` and ``after`` override that; a callback moves no further than they ask. Each gets its ``position``, such
    that `position_of` is where a further callback without these options would come.

    Raises:
        CallbackOrderError: If they form a cycle, or name a callback that is not attached.

    Source:
        Kahn (1962), Topological sorting of large networks, as in `graphlib`; ties are decided by a heap.
    """
    sorter = graphlib.TopologicalSorter(_predecessors(attachments))
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        cycle = [name for name in attachments if name in error.args[1]]
        names = ", ".join(map(repr, cycle))
        message = f"the options before and after of these callbacks contradict each other: {names}"
        raise CallbackOrderError(message, cycle) from None
    rank = _ranks(attachments)
    ready: list[tuple[Position, str]] = []
    done: dict[str, Attachment] = {}
    group, place = 0, 0.0
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, (rank[name], name))
        name = heapq.heappop(ready)[1]
        group, place = max((group, place), rank[name][:2])  # it may have waited for one that comes later by its rank
        attachments[name].position = group, place, len(done)
        done[name] = attachments[name]
        sorter.done(name)
    return done


def _predecessors(attachments: Mapping[str, Attachment]) -> dict[str, set[str]]:
    """Return for each callback those that it has to wait for."""
    predecessors: dict[str, set[str]] = {name: set() for name in attachments}
    for name, item in attachments.items():
        for option, others in (("before", item.before), ("after", item.after)):
            for other in others:
                if other not in attachments:
                    near, there = did_you_mean(other, attachments), ", ".join(attachments)
                    message = f"callback {name!r}: {option}={other!r} is not attached; attached: {there}.{near}"
                    raise CallbackOrderError(message, [name])
                first, second = (name, other) if option == "before" else (other, name)
                predecessors[second].add(first)
    return predecessors


def _ranks(attachments: Mapping[str, Attachment]) -> dict[str, Position]:
    """Return a sort key for each callback: its group, its position in there, its number in the list.

    A callback with ``before`` gets the position just below that of the other; one with ``after`` just waits.
    """
    just_below = 1 / (len(attachments) + 1)
    rank = {name: position_of(item) for name, item in attachments.items()}
    moved = {name: item.before for name, item in attachments.items() if item.before}
    for name in graphlib.TopologicalSorter(moved).static_order():  # those that a callback must precede come first
        wanted = [(rank[other][0], rank[other][1] - just_below, rank[name][2]) for other in moved.get(name, ())]
        rank[name] = min([rank[name], *wanted])
    return rank


class Levels:
    """Numbers of callbacks that agree with all ``before`` and ``after``: one that precedes another has a lower one.

    They tell without sorting that a further callback contradicts none; the order of the calls is another one.
    """

    def __init__(self) -> None:
        self._of: dict[str, Fraction] = {}

    def take(self, item: Attachment) -> bool:
        """Give a new callback a level, if those of the others leave room; return whether they do."""
        lows, highs = self._found(item.after), self._found(item.before)
        if len(lows) < len(item.after) or len(highs) < len(item.before):
            return False
        low, high = max(lows, default=None), min(highs, default=None)
        if low is not None and high is not None:
            if low >= high:
                return False
            self._of[item.name] = (low + high) / 2
        else:
            self._of[item.name] = high - 1 if high is not None else (low or Fraction(0)) + 1
        return True

    def renew(self, names: Iterable[str]) -> None:
        """Take the levels of callbacks from their order."""
        self._of = {name: Fraction(number) for number, name in enumerate(names)}

    def drop(self, name: str) -> None:
        """Forget a callback that was removed."""
        self._of.pop(name, None)

    def _found(self, names: Iterable[str]) -> list[Fraction]:
        return [self._of[name] for name in names if name in self._of]
