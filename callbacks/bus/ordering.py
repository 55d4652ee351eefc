"""The order in which callbacks are called."""

from __future__ import annotations

import graphlib
import heapq

from ..errors import CallbackOrderError, did_you_mean
from .attachment import Attachment


def in_order(attachments: dict[str, Attachment]) -> dict[str, Attachment]:
    """Sort callbacks: flow control, then control callbacks, then observers, each in the order of the list.

    ``before`` and ``after`` override that; a callback moves no further than they ask.

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
    ready: list[tuple[tuple[int, float, int], str]] = []
    done: dict[str, Attachment] = {}
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, (rank[name], name))
        name = heapq.heappop(ready)[1]
        done[name] = attachments[name]
        sorter.done(name)
    return done


def _predecessors(attachments: dict[str, Attachment]) -> dict[str, set[str]]:
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


def _ranks(attachments: dict[str, Attachment]) -> dict[str, tuple[int, float, int]]:
    """Return a sort key for each callback: its group, its position in there, its number in the list.

    A callback with ``before`` gets the position just below that of the other; one with ``after`` just waits.
    """
    just_below = 1 / (len(attachments) + 1)
    rank = {name: (_group(item), float(item.number), item.number) for name, item in attachments.items()}
    for _ in attachments:
        for name, item in attachments.items():
            wanted = [(rank[other][0], rank[other][1] - just_below, rank[name][2]) for other in item.before]
            rank[name] = min([rank[name], *wanted])
    return rank


def _group(attachment: Attachment) -> int:
    is_flow = getattr(attachment.callback, "is_flow", False)
    return 0 if is_flow else 1 if attachment.role == "control" else 2
