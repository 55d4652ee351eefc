"""Current epoch of a run, for callbacks: its number, its updates, and their mean loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..progress import Progress


class WatchedLosses:
    """A sum of losses of updates, each as it was computed.

    Args:
        sum_ranks: Returns the sum of a value over all ranks.
    """

    def __init__(self, sum_ranks: Callable[[Any], Any]) -> None:
        self._sum_ranks = sum_ranks
        self._total: Any = 0.0
        self._empty: Any = 0
        self._before: tuple[Any, Any] = (0.0, 0)

    def add(self, loss: Any, is_empty: Any) -> None:
        """Add the loss of an update, on any device, unless nothing counts in it."""
        self._before = (self._total, self._empty)
        self._total = self._total + (0.0 if is_empty is True else loss)
        self._empty = self._empty + is_empty

    def take_back(self) -> None:
        """Make of the last update one in which nothing counted."""
        self._total, empty = self._before
        self._empty = empty + 1

    def take(self) -> tuple[float, int]:
        """Return the sum since the last call, and the number of updates in which nothing counted.

        Waits for the device.
        """
        taken = float(self._sum_ranks(self._total)), int(self._empty)
        self._total, self._empty = 0.0, 0
        return taken


class CurrentEpoch:
    """The epoch that a run is in, for callbacks: its number, its updates, and their mean loss.

    The mean loss is that over the examples of the epoch of the losses of its updates, each as it was computed. A log
    record has the mean over updates since the last record, without losses that are not finite; this is the number that
    ``Model.fit`` shows. It is computed only if a callback asks for it. The device sums the losses of updates with
    equally many examples; their sum is read where the number changes (at a smaller last batch) and where the mean is
    read.

    Args:
        loop: Its step sums the losses; its progress keeps the sums, so that they are in the checkpoint.

    Attributes:
        is_watched: Whether a callback asked for the mean loss in this run.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._examples = self._updates = 0
        self.is_watched: bool = False

    @property
    def number(self) -> int:
        """The number of the epoch, from 0."""
        return self._progress.epoch

    @property
    def updates(self) -> int:
        """The updates done in it."""
        return -(-self._progress.batches_in_epoch // int(self._loop.args.gradient_accumulation_steps))

    @property
    def _progress(self) -> Progress:
        progress: Progress = self._loop.progress
        return progress

    def watch_loss(self) -> None:
        """Begin to sum the losses of this run; called by callbacks at on_train_begin."""
        if not self.is_watched:
            self._loop.step.watch_losses()
            self.is_watched = True

    def expect(self, window: Sequence[Any]) -> None:
        """Note that an update on these micro-batches comes next."""
        if self.is_watched:
            examples, progress = self._loop.engine.count_examples(window), self._progress
            if examples != self._examples or progress.batches_in_epoch == 0:
                self.settle()
                self._examples = examples
            if progress.batches_in_epoch == 0:
                progress.epoch_loss, progress.epoch_loss_examples = 0.0, 0
            self._updates += 1

    def settle(self) -> None:
        """Add the losses of the updates so far. Waits for the device."""
        if self._updates:
            loss, empty = self._loop.step.take_watched_losses()
            self._progress.epoch_loss += loss * self._examples
            self._progress.epoch_loss_examples += (self._updates - empty) * self._examples
            self._updates = 0

    def mean_loss(self) -> float | None:
        """Return the mean so far; None if nothing has counted yet. Waits for the device."""
        self.settle()
        examples = self._progress.epoch_loss_examples
        return self._progress.epoch_loss / examples if examples else None
