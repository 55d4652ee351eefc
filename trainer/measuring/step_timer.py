"""Step times, and local step times: the part of a step before a process waits for the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")
KEPT = 1000
"""Maximum number of updates in a mean, which bounds the memory of a run that never logs."""


class StepTimer:
    """A timer of the updates of one process; it is off until ``is_on`` is set.

    The local step time begins when the data of an update are requested, and ends when the trainer calls `exchange`,
    before it waits for other processes. If all processes step together, only this time differs between them: the whole
    step takes as long on each as on the slowest.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._begun_s: float | None = None
        self._own_begun: Any = None
        self._own: deque[tuple[Any, Any]] = deque(maxlen=KEPT)
        self._whole: deque[float] = deque(maxlen=KEPT)

    def reading(self, batches: Iterator[T]) -> Iterator[T]:
        """Return ``batches``; the request for the first batch of each update starts the timer."""
        return self._reading(batches) if self.is_on else batches

    def _reading(self, batches: Iterator[T]) -> Iterator[T]:
        while True:
            if self._begun_s is None:
                self._begun_s, self._own_begun = perf_counter(), self._now()
            try:
                batch = next(batches)
            except StopIteration:
                self._begun_s = self._own_begun = None
                return
            yield batch

    def exchange(self) -> None:
        """Record the end of the local step time; only the first call in an update counts."""
        if self._own_begun is not None:
            self._own.append((self._own_begun, self._now()))
            self._own_begun = None

    def step_end(self) -> None:
        """Record the end of the update."""
        if self._begun_s is not None:
            self._whole.append(perf_counter() - self._begun_s)
        self._begun_s = self._own_begun = None

    def take(self) -> tuple[float | None, float | None]:
        """Return the mean time of whole steps and the mean local step time since the last call, in seconds.

        Either is None if nothing was timed. Waits for the device.
        """
        own = [self._seconds(begun, ended) for begun, ended in self._own]
        means = _mean(list(self._whole)), _mean(own)
        self._whole.clear()
        self._own.clear()
        return means

    def _now(self) -> Any:
        return perf_counter()

    def _seconds(self, begun: Any, ended: Any) -> float:
        return float(ended - begun)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
