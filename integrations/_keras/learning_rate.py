"""Learning rate that a Keras callback sets: the trainer's schedule takes it over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trackside.callbacks.errors import CallbackError

logger: logging.Logger = logging.getLogger("trackside.integrations")


class LearningRate:
    """The learning rate of a Keras optimizer under a schedule of the trainer, which sets it at each update.

    Args:
        optimizer: The trainer's optimizer.
        schedule: The trainer's schedule; None if there is none, as with a schedule of Keras in the optimizer.
        kind: ``args.lr_scheduler_type``.
    """

    def __init__(self, optimizer: Any, schedule: Any, kind: str) -> None:
        self._optimizer = optimizer
        self._schedule = schedule
        self._kind = str(kind)
        self._is_taken = False

    @contextmanager
    def taken_from(self, name: str) -> Iterator[None]:
        """Return a context in which a callback sees the rate of the next update, and in which one that it sets holds.

        Raises:
            CallbackError: If the schedule cannot take a rate.
        """
        if self._schedule is None or not hasattr(self._optimizer, "learning_rate"):
            yield
            return
        self._optimizer.learning_rate.assign(self._schedule.get_last_lr()[0])
        before = self._value()
        yield
        after = self._value()
        if after != before:
            self._hold(after, name)

    def _hold(self, rate: float, name: str) -> None:
        if not hasattr(self._schedule, "hold"):
            raise CallbackError(
                f"{name} of Keras sets the learning rate, and so does the {type(self._schedule).__name__} in "
                "optimizers= at each update: leave one of them out"
            )
        self._schedule.hold(rate)
        if not self._is_taken and self._kind not in ("constant", "reduce_lr_on_plateau"):
            logger.warning(
                "%s of Keras has set the learning rate to %g, which holds from now on; the schedule (%s) no longer "
                "sets it. With lr_scheduler_type='constant', the callback sets it from the start",
                *(name, rate, self._kind),
            )
        self._is_taken = True

    def _value(self) -> float:
        import keras

        return float(keras.ops.convert_to_numpy(self._optimizer.learning_rate))
