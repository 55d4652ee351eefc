"""The variables that a run trains, which callbacks change when they freeze or unfreeze layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from trackside.callbacks.errors import TracksideValueError

from ...base_engine.engine import tell_of_other_model
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
    _model: Any = None
    _is_told: bool = False
    engine: Any
    _may_be_changed: EpochObservers

    def follow(self, made: TFMadeOptimizer, receivers: Callable[[str], tuple[Any, ...]]) -> None:
        """Begin a run with the layers that are trainable now, and with an optimizer.

        Args:
            receivers: Returns the receivers of an event.
        """
        self._may_be_changed = EpochObservers(receivers)
        made.begin_run()
        self._made, self._builds = made, made.builds
        self._model, self._is_told = self.trainer.model, False
        self._parts = TrainableParts(self._model)
        self.variables = self._model.trainable_variables

    def take_trainable(self) -> None:
        """Make the functions of the run anew, and what the optimizer lacks, if layers were frozen or unfrozen.

        Raises:
            TracksideValueError: If no layer is left to train.
        """
        self.may_be_other = False
        if self.trainer.model is not self._model and not self._is_told:
            self._is_told = True
            tell_of_other_model()
        if self.trainer.optimizer is not self._made.optimizer:
            self._take_other_optimizer()
        self.take_schedule()
        names = self._parts.changed()
        if not names and self._builds == self._made.builds:
            return
        self.queue.flush()
        with self.strategy.scope():
            self._made.take_trainable()
        self.variables, self._builds = self._model.trainable_variables, self._made.builds
        if not self.variables:
            raise TracksideValueError("a callback froze every layer of the model, so that nothing is left to train")
        self.compiled.renew()
        self.forget_states()
        if names:
            more = f" and {len(names) - 1} other layers and variables" if len(names) > 1 else ""
            logger.warning("%s%s were frozen or unfrozen, which holds from this update on", names[0], more)

    def take_schedule(self) -> None:
        """Go on with a schedule that a callback has set within the run, if one has."""
        if self.trainer.lr_scheduler is not self._made.schedule:
            self.queue.flush()
            self.engine.take_other_schedule()
            self.compiled.renew()  # the traced function knows whether there is one

    def _take_other_optimizer(self) -> None:
        """Go on with an optimizer that a callback has set within the run."""
        self.queue.flush()
        with self.model_of_run(), self.strategy.scope():
            self.engine.take_other_optimizer()
        self._made = cast(TFMadeOptimizer, self.engine.made)
        self._builds = self._made.builds
        self.compiled.renew()

    @contextmanager
    def model_of_run(self) -> Iterator[None]:
        """Return a context in which the trainer has the model that the run began with."""
        now, self.trainer.model = self.trainer.model, self._model
        try:
            yield
        finally:
            self.trainer.model = now

    def forget_states(self) -> None:
        """Find the states of the model again when an update is about to be skipped."""
