"""A group of ranks that are threads of this process, for tests of what ranks decide together."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trackside.trainer.distributed.collectives import Collectives


class FakeGroup:
    """Ranks that exchange picklable objects.

    Args:
        world_size: Number of ranks.
        timeout_s: How long a rank waits for the others before all of them get a ``threading.BrokenBarrierError``.
    """

    def __init__(self, world_size: int = 3, timeout_s: float = 5.0) -> None:
        self.world_size = world_size
        self._barrier = threading.Barrier(world_size, timeout=timeout_s)
        self._sent: list[bytes] = [b""] * world_size

    def collectives(self, rank: int) -> Collectives:
        """Return the collectives of a rank."""
        return Collectives(lambda call: self._exchange(rank, call), rank, self.world_size)

    def run(self, function: Callable[[Collectives], Any]) -> list[Any]:
        """Call ``function`` on every rank at once; return its values, or the exceptions in their places.

        A rank whose function ends while another one still waits for it breaks the exchange of that one.
        """
        with ThreadPoolExecutor(self.world_size) as pool:
            futures = [pool.submit(function, self.collectives(rank)) for rank in range(self.world_size)]
            for future in futures:
                future.add_done_callback(lambda _: self._end())
            return [future.exception() or future.result() for future in futures]

    def _exchange(self, rank: int, call: Any) -> list[Any]:
        self._sent[rank] = pickle.dumps(call)
        self._barrier.wait()
        received = [pickle.loads(sent) for sent in self._sent]
        self._barrier.wait()
        return received

    def _end(self) -> None:
        if self._barrier.n_waiting:
            self._barrier.abort()
