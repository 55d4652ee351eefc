"""Instants of kills, drawn at random: some after an update, some inside a save, few before the first update."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

START, UPDATE, SAVE = "start", "update", "save"
"""What an instant follows: the run takes its folder; an update; a checkpoint that begins to be written or deleted."""

SHORTEST_SAVE_S = 0.005
SHARES = {SAVE: 0.5, START: 0.1}
"""Shares of the instants; the others follow an update."""

START_S = 1.0
"""An instant before the first update, if that comes later, is within that time after the run took its folder."""

LATEST = 0.95
"""Share of the time that is left of which the last instant is drawn: a later one often finds the job ended."""


@dataclass(frozen=True)
class Instant:
    """When to kill a job.

    Attributes:
        delay_s: Seconds after what it follows.
        after: `START`, `UPDATE` or `SAVE`.
        number: Which of them, counted from 1 at each start of the job.
    """

    delay_s: float
    after: str = START
    number: int = 1

    def is_due(self, now: float, seen: Mapping[str, Sequence[float]]) -> bool:
        """Return whether the instant has come.

        Args:
            now: The time, in seconds.
            seen: The times of what an instant may follow.

        Example:
            >>> Instant(0.5, SAVE, 2).is_due(4.0, {"save": [2.0, 3.0]})
            True
        """
        times = seen[self.after]
        return len(times) >= self.number and now - times[self.number - 1] >= self.delay_s


@dataclass(frozen=True)
class Left:
    """What is left of a run.

    Attributes:
        time_s: Seconds.
        updates: Updates; 0 if they are not traced.
        saves: Saves.
        update_s: How long an update takes.
        save_s: How long a save takes.
    """

    time_s: float
    updates: int
    saves: int
    update_s: float
    save_s: float


def drawn(draw: random.Random, left: Left) -> Instant:
    """Return a random instant."""
    share = draw.random()
    if left.saves > 0 and share < SHARES[SAVE]:
        return Instant(draw.uniform(0.0, max(left.save_s, SHORTEST_SAVE_S)), SAVE, draw.randint(1, left.saves))
    if share > 1.0 - SHARES[START]:
        return Instant(draw.uniform(0.0, START_S))
    if left.updates > 0:
        return Instant(draw.uniform(0.0, left.update_s), UPDATE, draw.randint(1, left.updates))
    return Instant(draw.uniform(0.0, LATEST * max(left.time_s, 0.0)))
