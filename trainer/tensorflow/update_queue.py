"""Updates that wait, so that several of them run in one call, where nobody could tell the difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from .data import TrainBatch
    from .engine import TFBackend

BETWEEN_UPDATES = ("on_step_begin", "on_step_end")
WITHIN_UPDATES = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")


class UpdateQueue:
    """Updates of a trainer that were asked for and not yet done, at most ``args.steps_per_execution`` of them."""

    def __init__(self, trainer: TFBackend) -> None:
        self.trainer = trainer
        self.size = trainer.args.steps_per_execution
        self._waiting: list[tuple[Sequence[TrainBatch], float]] = []
        self._seen: tuple[Any, ...] = ()
        self._intervals: list[int] = []

    def takes(self, window: Sequence[TrainBatch]) -> bool:
        """Return whether this update may wait: it is a whole one, and nobody looks at the model after it."""
        if self.size < 2 or self.trainer.precision.is_scaled:
            return False
        args = self.trainer.args
        is_whole = len(window) == args.gradient_accumulation_steps and all(
            batch.examples_of_all == args.train_batch_size for batch in window
        )
        return is_whole and not self._is_watched(self.trainer.state.global_step + 1)

    def add(self, window: Sequence[TrainBatch], learning_rate: float) -> None:
        """Let an update wait; do all that wait once they are as many as go into one call."""
        if self._waiting and _shapes(self._waiting[0][0]) != _shapes(window):
            self.flush()
        self._waiting.append((window, learning_rate))
        if len(self._waiting) == self.size:
            self.flush()

    def flush(self) -> None:
        """Do every update that waits."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        trainer = self.trainer
        if len(waiting) < self.size:  # one by one: another number in one call would be another trace
            for window, learning_rate in waiting:
                trainer.update_at_once(window, learning_rate)
            return
        windows = [[batch.inputs for batch in window] for window, _ in waiting]
        rows = None
        if trainer.processes.replicas > 1:
            rows = np.stack([np.stack([trainer._rows_of(pair) for pair in window]) for window in windows])
        trainer.step.updates(windows, rows, [learning_rate for _, learning_rate in waiting])

    def _is_watched(self, number: int) -> bool:
        """Return whether somebody hears a step at which ``number`` updates are complete, and could look at weights."""
        seen = tuple(self.trainer.dispatcher.receivers(event) for event in BETWEEN_UPDATES)
        if seen != self._seen:
            self._seen = seen
            self._intervals = [_interval(receiver) for receivers in seen for receiver in receivers]
        return any(interval and number % interval == 0 for interval in self._intervals)


def _interval(receiver: Callable[..., Any]) -> int:
    """Return how often a receiver hears a step; 0 for callbacks of this package, which never look at weights."""
    attachment = getattr(receiver, "attachment", None)
    if attachment is not None and type(attachment.callback).__module__.startswith("trackside.callbacks."):
        return 0
    return int(getattr(receiver, "every", 1))


def _shapes(window: Sequence[TrainBatch]) -> list[Any]:
    return [None if leaf is None else tuple(leaf.shape) for leaf in tf.nest.flatten([b.inputs for b in window])]
