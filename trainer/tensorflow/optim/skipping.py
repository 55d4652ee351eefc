"""Skipping of an update in TensorFlow: the states that its forward passes changed, and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ..weights import model_state


class TFSkipsUpdates:
    """The methods of a training step by which an update is skipped, and those of the sums of the losses.

    Attributes:
        compiled: Has the loss of the update, and adds it to the sums with the optimizer's step.
        may_be_empty: Whether an update may be one in which nothing counts, found while the step is traced.
        counted: Whether anything counted in the update that is traced, a tensor; empty if it certainly did.
        skipped, skipped_of_watched: Number of skipped updates since these losses were taken last.
    """

    trainer: Any
    compiled: Any
    queue: Any
    may_be_empty: bool = False
    counted: Sequence[Any] = ()
    skipped: int = 0
    skipped_of_watched: int = 0
    _states: tuple[Any, list[Any]] = (None, [])
    _kept: tuple[tuple[Any, Any], ...] = ()

    def keep_state(self) -> None:
        """Keep the states of the model, such as running statistics; it costs nothing until they are assigned to."""
        model = self.trainer.model
        if self._states[0] is not model:
            self._states = model, model_state.parts_of(model_state.states_of(model))
        self._kept = tuple((part, model_state.held(part)) for part in self._states[1])

    def update_loss(self) -> float | None:
        """Return the mean loss of the update, over all replicas. Waits for the device."""
        return float(self.compiled.loss.numpy())

    def forget_states(self) -> None:
        """Find the states of the model again when an update is about to be skipped."""
        self._states = (None, [])

    def take_back(self, *, is_kept: bool) -> None:
        """Restore what `keep_state` kept in this update, if it did; make of it one in which nothing counted."""
        for part, value in self._kept if is_kept else ():
            part.assign(value)
        self.compiled.finite.add(self.compiled.loss.read_value())
        self.skipped += 1
        self.skipped_of_watched += 1

    # -- the losses of updates ----------------------------------------------------------------------------------------

    def take_loss(self) -> tuple[float, int]:
        """Return the losses since the last call, summed, and the updates without one. Waits for the device."""
        self.queue.flush()
        skipped, self.skipped = self.skipped, 0
        loss, empty = self.compiled.take_loss()
        return loss, empty + skipped

    def watch_losses(self) -> None:
        """Begin another sum of the losses of the updates, each as it was computed."""
        self.compiled.watched = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def take_watched_losses(self) -> tuple[float, int]:
        """Return that sum since the last call, and how many were skipped. Waits for the device."""
        self.queue.flush()
        skipped, self.skipped_of_watched = self.skipped_of_watched, 0
        total = float(self.compiled.watched.numpy())
        self.compiled.watched.assign(0.0)
        return total, skipped
