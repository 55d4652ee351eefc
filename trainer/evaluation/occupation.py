"""Occupation: what a trainer is doing and in which thread, so that nothing else touches its model meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from trackside.callbacks.errors import BusyError

INSTEAD = {
    "find_batch_size()": "Call it before train(), or when that has ended",
    "find_learning_rate()": "Call it before train(), or when that has ended",
    "train()": "Train another trainer, or a copy of this one, or train again when it has ended",
    "hyperparameter_search()": "Search with another trainer, or when it has ended",
}
"""What to do in place of what may not begin within anything else."""

IN_THREADS = (
    "Ask for it in the thread of the run: in a callback that is not in the background, or by control.should_evaluate"
)


class Occupation:
    """What one trainer is doing: train(), evaluate() and predict(), each within the one before."""

    def __init__(self) -> None:
        self._doing: list[str] = []
        self._thread: int | None = None

    @contextmanager
    def begin(self, what: str) -> Iterator[None]:
        """Return a context in which the trainer does ``what``; see `check`."""
        self.check(what)
        self._thread = threading.get_ident()
        self._doing.append(what)
        try:
            yield
        finally:
            self._doing.pop()

    def check(self, what: str) -> None:
        """Check that the trainer may begin with ``what``.

        Raises:
            BusyError: If it is doing something within which that may not begin, or does it in another thread.
        """
        if not self._doing:
            return
        now = self._doing[-1]
        if self._thread != threading.get_ident():
            raise BusyError(f"{what} was called while another thread is in {now} of the same trainer. {IN_THREADS}")
        if what in INSTEAD:
            raise BusyError(f"{what} was called within {now} of the same trainer. {INSTEAD[what]}")
