"""Weight average: an average of a model's weights beside the weights that are trained.

A callback begins it and mixes the present weights in. Evaluations, predictions and saved models have the average, and
the model itself has it after the run. The weights of a checkpoint are the average, too; one more file holds the weights
that are trained, with which a resumed run goes on.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trackside.callbacks.errors import CallbackError, UnsupportedError

logger: logging.Logger = logging.getLogger("trackside.trainer")

TRAINED, AVERAGED = "trained/", "averaged/"
"""Prefixes of the names in the file with the weights that are trained, and with averages of other precision."""


class WeightAverage(ABC):
    """The average of the weights of one trainer's model: parameters, and buffers of floating point.

    It is kept in float32 if the weights have less precision.

    Args:
        engine: Its trainer's model is averaged.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._average: dict[str, Any] = {}
        self._owner: str | None = None
        self._shown = 0

    # -- for callbacks ------------------------------------------------------------------------------------------------

    @property
    def is_begun(self) -> bool:
        """Whether there is an average."""
        return bool(self._average)

    def claim(self, owner: str) -> None:
        """Reserve the average for the callback of class ``owner``, for this run.

        Raises:
            CallbackError: If it is reserved for another one.
            UnsupportedError: If the model is sharded, or the optimizer averages the weights itself.
        """
        if self._owner not in (None, owner):
            raise CallbackError(f"{self._owner} and {owner} both average the weights; attach one of them")
        if self._engine.strategy.is_sharded:
            raise UnsupportedError(f"{owner} cannot be used with fsdp, which shards the weights that it averages")
        if self._optimizer_averages():
            raise UnsupportedError(f"{owner} cannot be used with this optimizer, which averages the weights itself")
        self._owner = owner

    def begin(self) -> None:
        """Begin with the present weights."""
        self._average = {name: self._copied(weight) for name, weight in self._weights().items()}

    def mix(self, share: float) -> None:
        """Add ``share`` times the distance to the present weights to the average."""
        weights = self._weights()
        for name, average in self._average.items():
            self._average[name] = self._mixed(average, weights[name], share)

    # -- for the trainer ----------------------------------------------------------------------------------------------

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Return a context in which the model has the average, if there is one, and then its own weights again."""
        if not self._average or self._shown:
            yield
            return
        weights = self._weights()
        kept = {name: self._held(weight) for name, weight in weights.items()}
        self._shown += 1
        try:
            self._take_average(weights)
            yield
        finally:
            self._shown -= 1
            for name, value in kept.items():
                self._assign(weights[name], value)

    def keep(self) -> None:
        """Give the model the average for good."""
        if self._average:
            self._take_average(self._weights())
        self.forget()

    def forget(self) -> None:
        """Forget the average, and for which callback it was reserved."""
        self._average, self._owner = {}, None

    def states(self) -> dict[str, Any] | None:
        """Return copies of what the weights of a checkpoint do not hold; None without an average."""
        if not self._average:
            return None
        weights = self._weights()
        other = {name: value for name, value in self._average.items() if self._differs(value, weights[name])}
        return {
            **{TRAINED + name: self._copied(weight, as_it_is=True) for name, weight in weights.items()},
            **{AVERAGED + name: self._copied(value, as_it_is=True) for name, value in other.items()},
        }

    def restore(self, states: Mapping[str, Any] | None, *, is_wanted: bool) -> None:
        """Take the average from the model, which has the weights of a checkpoint, and give it those to train.

        Args:
            states: What `states` returned; None if there was no average.
            is_wanted: Whether a callback goes on with it.
        """
        self._average = {}
        if states is None:
            return
        if is_wanted:
            self.begin()
            for name in self._average.keys() & {
                key.removeprefix(AVERAGED) for key in states if key.startswith(AVERAGED)
            }:
                self._average[name] = self._restored(states[AVERAGED + name], self._average[name])
        elif self._engine.trainer.state.is_world_process_zero:
            logger.warning("resuming: the checkpoint has an average of the weights, and no callback averages them now")
        weights = self._weights()
        for name in [name for name in weights if TRAINED + name in states]:
            self._assign(weights[name], self._restored(states[TRAINED + name], weights[name]))

    def _take_average(self, weights: Mapping[str, Any]) -> None:
        for name, value in self._average.items():
            self._assign(weights[name], value)

    # -- implemented by a framework -----------------------------------------------------------------------------------

    @abstractmethod
    def _weights(self) -> dict[str, Any]:
        """Return the present weights of floating point by name, after the updates that are queued."""

    @abstractmethod
    def _optimizer_averages(self) -> bool:
        """Return whether the optimizer has weights of its own for evaluations."""

    @abstractmethod
    def _copied(self, weight: Any, *, as_it_is: bool = False) -> Any:
        """Return a copy of a weight in at least float32, or in its own precision."""

    @abstractmethod
    def _held(self, weight: Any) -> Any:
        """Return the value of a weight, for `_assign`."""

    @abstractmethod
    def _mixed(self, average: Any, weight: Any, share: float) -> Any:
        """Return ``average + share * (weight - average)``, in place if possible."""

    @abstractmethod
    def _assign(self, weight: Any, value: Any) -> None:
        """Give a weight a value of any precision."""

    @abstractmethod
    def _differs(self, average: Any, weight: Any) -> bool:
        """Return whether an average has another precision than the weight."""

    @abstractmethod
    def _restored(self, value: Any, like: Any) -> Any:
        """Return a value as it was read from a file, in the precision and on the device of ``like``."""
