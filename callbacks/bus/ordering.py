"""The order in which callbacks are called."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Mapping

from ..errors import CallbackOrderError, did_you_mean
from .attachment import Attachment, Position


def position_of(attachment: Attachment) -> Position:
    """Return the position of a callback that neither has ``before`` or ``after`` nor is named there: last of its group.

    The groups are flow control, control callbacks, observers; in each, callbacks have the order of the list.
    """
    is_flow = getattr(attachment.callback, "is_flow", False)
    group = 0 if is_flow else 1 if attachment.role == "control" else 2
    return group, float(attachment.number), attachment.number


def in_order(attachments: Mapping[str, Attachment]) -> dict[str, Attachment]:
    """Sort callbacks: flow control, then control callbacks, then observers, each in the order of the list.

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
    moved = [name for name, item in attachments.items() if item.before]
    before: dict[str, Position] = {}
    while before != rank:
        before = dict(rank)
        for name in moved:
            wanted = [
                (rank[other][0], rank[other][1] - just_below, rank[name][2]) for other in attachments[name].before
            ]
            rank[name] = min([rank[name], *wanted])
    return rank
