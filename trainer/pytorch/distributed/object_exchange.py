"""Exchange of picklable values between the processes of a job, as `Collectives` need it."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from ...distributed.collectives import Call
from .watchdog import Watchdog


class ObjectExchange:
    """Exchanges values of the processes in a group of all of them.

    Args:
        group: The process group.
        watchdog: Is told the name of each collective.
    """

    def __init__(self, group: Any, watchdog: Watchdog) -> None:
        self._group = group
        self._watchdog = watchdog
        self._world_size = dist.get_world_size()

    def to_all(self, call: Call) -> list[Call]:
        """Return the ``call`` of every rank, in rank order."""
        gathered: list[Any] = [None] * self._world_size
        with self._watchdog.collective(call.name):
            dist.all_gather_object(gathered, call, group=self._group)
        return gathered

    def to_first(self, name: str, packed: bytes) -> list[bytes] | None:
        """Return the bytes of every rank, in rank order, on the first rank; None on the others."""
        gathered: list[Any] | None = [None] * self._world_size if dist.get_rank() == 0 else None
        with self._watchdog.collective(name):
            dist.gather_object(packed, gathered, dst=0, group=self._group)
        return gathered
