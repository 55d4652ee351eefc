"""The order in which callbacks are called."""

from __future__ import annotations

import heapq

from ..errors import CallbackOrderError, did_you_mean
from .attachment import Attachment


def in_order(attachments: dict[str, Attachment]) -> dict[str, Attachment]:
    """Sort callbacks: flow control, then control callbacks, then observers, each in the order of the list.

    ``before`` and ``after`` override that; a callback moves no further than they ask.

    Raises:
        CallbackOrderError: If they form a cycle, or name a callback that is not attached.

    Source:
        Kahn (1962), Topological sorting of large networks; ties are decided by a heap.
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
        cycle = [name for name in attachments if name not in done]
        listing = ", ".join(map(repr, cycle))
        raise CallbackOrderError(
            f"the options before and after of these callbacks contradict each other: {listing}", cycle
        )
    return {name: attachments[name] for name in done}


def _followers(attachments: dict[str, Attachment]) -> dict[str, set[str]]:
    """Return for each callback those that have to wait for it."""
    followers: dict[str, set[str]] = {name: set() for name in attachments}
    for name, item in attachments.items():
        for option, others in (("before", item.before), ("after", item.after)):
            for other in others:
                if other not in followers:
                    raise CallbackOrderError(
                        f"callback {name!r}: {option}={other!r} is not attached; attached: {', '.join(attachments)}."
                        f"{did_you_mean(other, attachments)}",
                        [name],
                    )
                first, second = (name, other) if option == "before" else (other, name)
                followers[first].add(second)
    return followers


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
    if getattr(attachment.callback, "is_flow", False):
        return 0
    return 1 if attachment.role == "control" else 2
