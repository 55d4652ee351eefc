"""A group of ranks that are threads of this process, for tests of what ranks decide together."""

from __future__ import annotations

import pickle
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trackside.trainer.distributed.collectives import Collectives


class FakeGroup:
    """Ranks that exchange picklable objects.

    Args:
        world_size: Number of ranks.
        timeout_s: How long a rank waits for the others before it gets a ``threading.BrokenBarrierError``, as it does at
            once where another rank has ended and will not come.
    """

    def __init__(self, world_size: int = 3, timeout_s: float = 5.0) -> None:
        self.world_size = world_size
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._sent: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        self._exchanges = [0] * world_size
        self._ended: set[int] = set()

    def collectives(self, rank: int) -> Collectives:
        """Return the collectives of a rank."""

        def collect(name: str, packed: bytes) -> list[bytes] | None:
            gathered: list[bytes] = self._exchange(rank, packed)
            return gathered if rank == 0 else None

        return Collectives(lambda call: self._exchange(rank, call), rank, self.world_size, collect)

    def run(self, function: Callable[[Collectives], Any]) -> list[Any]:
        """Call ``function`` on every rank at once; return its values, or the exceptions in their places."""
        with ThreadPoolExecutor(self.world_size) as pool:
            futures = [pool.submit(self._run, function, rank) for rank in range(self.world_size)]
            return [future.exception() or future.result() for future in futures]

    def _run(self, function: Callable[[Collectives], Any], rank: int) -> Any:
        try:
            return function(self.collectives(rank))
        finally:
            with self._changed:
                self._ended.add(rank)
                self._changed.notify_all()

    def _exchange(self, rank: int, call: Any) -> list[Any]:
        with self._changed:
            number, self._exchanges[rank] = self._exchanges[rank], self._exchanges[rank] + 1
            sent = self._sent[number]
            sent[rank] = pickle.dumps(call)
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(sent) == self.world_size or self._ended - sent.keys(), self._timeout_s)
            if len(sent) < self.world_size:
                raise threading.BrokenBarrierError
        return [pickle.loads(sent[other]) for other in range(self.world_size)]
