"""The variables that a run trains, which callbacks change when they freeze or unfreeze layers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from trackside.callbacks.errors import TracksideValueError

from ..update_queue import EpochObservers
from .frozen import TrainableParts
from .resuming import TFMadeOptimizer

logger: logging.Logger = logging.getLogger("trackside.trainer")


class FollowsTrainable:
    """The methods of a training step by which it takes layers into account that were frozen or unfrozen.

    Attributes:
        variables: The variables that the next update changes.
        may_be_other: Whether layers may have been frozen or unfrozen since the last update.
    """

    trainer: Any
    strategy: Any
    compiled: Any
    queue: Any
    variables: list[Any]
    may_be_other: bool = False
    _made: TFMadeOptimizer
    _parts: TrainableParts
    _builds: int = 0
    _may_be_changed: EpochObservers

    def follow(self, made: TFMadeOptimizer, receivers: Callable[[str], tuple[Any, ...]]) -> None:
        """Begin a run with the layers that are trainable now, and with an optimizer.

        Args:
            receivers: Returns the receivers of an event.
        """
        self._may_be_changed = EpochObservers(receivers)
        made.begin_run()
        self._made, self._builds = made, made.builds
        self._parts = TrainableParts(self.trainer.model)
        self.variables = self.trainer.model.trainable_variables

    def take_trainable(self) -> None:
        """Make the functions of the run anew, and what the optimizer lacks, if layers were frozen or unfrozen.

        Raises:
            TracksideValueError: If no layer is left to train.
        """
        self.may_be_other = False
        names = self._parts.changed()
        if not names and self._builds == self._made.builds:
            return
        self.queue.flush()
        with self.strategy.scope():
            self._made.take_trainable()
        self.variables, self._builds = self.trainer.model.trainable_variables, self._made.builds
        if not self.variables:
            raise TracksideValueError("a callback froze every layer of the model, so that nothing is left to train")
        self.compiled.renew()
        self.forget_states()
        if names:
            more = f" and {len(names) - 1} other layers and variables" if len(names) > 1 else ""
            logger.warning("%s%s were frozen or unfrozen, which holds from this update on", names[0], more)

    def forget_states(self) -> None:
        """Find the states of the model again when an update is about to be skipped."""
