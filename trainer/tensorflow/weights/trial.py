"""Trials of a Keras model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...base_engine.trial import ModelTrial
from .. import model_state


class TFTrial(ModelTrial):
    """Tries a Keras model."""

    @contextmanager
    def model_kept(self) -> Iterator[None]:
        """Return a context that ends with all variables of the model as they were."""
        values = [(each, model_state.held(each)) for each in model_state.variables_of(self._engine.trainer.model)]
        try:
            yield
        finally:
            for variable, value in values:
                variable.assign(value)

    def copied_optimizer(self, optimizer: Any) -> Any:
        """Return an optimizer of the user's as a new one with the same options."""
        return None if optimizer is None else type(optimizer).from_config(optimizer.get_config())

    def rate_of(self, optimizer: Any) -> float:
        """Return the learning rate of an optimizer."""
        return float(optimizer.learning_rate)
