"""Instants of kills, drawn at random: some after a time, some inside a save, few before the first update."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

START, UPDATES = "start", "updates"
"""What an instant may follow, besides a save: the run takes its folder; it does its first update."""

SHORTEST_SAVE_S = 0.005
SHARES = {"save": 0.5, START: 0.1}
"""Shares of the instants; the others follow the first update."""

START_S = 1.0
"""An instant before the first update, if that comes later, is within that time after the run took its folder."""

LATEST = 0.95
"""Share of the time that is left of which the last instant is drawn: a later one often finds the job ended."""


@dataclass(frozen=True)
class Instant:
    """When to kill a job.

    Attributes:
        delay_s: Seconds after what it follows.
        after: `START` or `UPDATES`.
        save: Number of the save of this start that it follows instead, from 1; 0: none.
    """

    delay_s: float
    after: str = UPDATES
    save: int = 0

    def is_due(self, now: float, begun: Mapping[str, float | None], saves: Sequence[Sequence[float]]) -> bool:
        """Return whether the instant has come.

        Args:
            now: The time, in seconds.
            begun: When the run took its folder, and when it did its first update.
            saves: First and last time at which each save of this start was seen, in order.

        Example:
            >>> Instant(0.5, save=2).is_due(4.0, {"start": 1.0}, [(2.0, 2.1), (3.0, 3.0)])
            True
        """
        saved = saves[self.save - 1][0] if 0 < self.save <= len(saves) else None
        since = saved if self.save else begun[self.after]
        return since is not None and now - since >= self.delay_s


def drawn(draw: random.Random, *, left_s: float, left_saves: int, save_s: float) -> Instant:
    """Return a random instant.

    Args:
        left_s: Seconds of training that are left.
        left_saves: Saves that are left.
        save_s: How long a save takes.
    """
    share = draw.random()
    if left_saves > 0 and share < SHARES["save"]:
        return Instant(draw.uniform(0.0, max(save_s, SHORTEST_SAVE_S)), save=draw.randint(1, left_saves))
    if share > 1.0 - SHARES[START]:
        return Instant(draw.uniform(0.0, START_S), after=START)
    return Instant(draw.uniform(0.0, LATEST * max(left_s, 0.0)))
