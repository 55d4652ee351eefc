"""Losses that are not finite, passed on to the callbacks that want to know, without slowing the step."""

from __future__ import annotations

from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher

INTERVAL = 20
"""Updates after which the host looks at losses on a device; a log and a save look too."""


class LossWatch:
    """Tells callbacks with a method ``loss_not_finite`` of the first loss of a run that is not finite.

    On a CPU it is known at the end of its update. Several processes act an update later: in between they agree to
    exchange the flags that callbacks set.

    Args:
        step: Looks at the losses.
        dispatcher: Has the callbacks.
        is_shared: Whether there are several processes.
    """

    def __init__(self, step: Any, dispatcher: Dispatcher, *, is_shared: bool) -> None:
        self._step = step
        self._dispatcher = dispatcher
        self._is_shared = is_shared
        self._known_at: int | None = None
        self._is_told = False

    def look(self, step: int) -> None:
        """Look at the losses at the end of update ``step``; cheap unless the host looks at a device."""
        if self._is_told or not self._dispatcher.wants_losses:
            return
        found = self._step.first_non_finite(wait=step % INTERVAL == 0)
        if found is None:
            return
        if self._known_at is None:
            self._known_at = step
        if not self._is_shared or self._known_at < step:
            self._is_told = True
            self._dispatcher.tell_not_finite(*found)
