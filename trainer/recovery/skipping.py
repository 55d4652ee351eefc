"""Skipping of an update, as callbacks decide after its gradients are complete and before the optimizer steps."""

from __future__ import annotations

from abc import ABC, abstractmethod

from trackside.callbacks.bus.dispatcher import Dispatcher


def steers_update(dispatcher: Dispatcher) -> bool:
    """Return whether a control callback or a plain listener is called when the gradients are complete."""
    receivers = dispatcher.receivers("on_pre_optimizer_step")
    return bool(receivers) and any(getattr(receiver, "may_steer", True) for receiver in receivers)


class SkipsUpdates(ABC):
    """The methods of a training step by which an update is skipped. They are called only if a callback may skip it."""

    @abstractmethod
    def update_loss(self) -> float | None:
        """Return the mean loss of the update whose gradients are complete, over all processes; None if nothing counts.

        All processes call it together. Waits for the device.
        """

    @abstractmethod
    def keep_state(self) -> None:
        """Keep what a forward pass changes, such as running statistics; called before an update."""

    @abstractmethod
    def take_back(self, *, is_kept: bool) -> None:
        """Restore what `keep_state` kept in this update, if it did; make of it one in which nothing counted."""
