"""Sandbox of a Keras model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from ...base_engine.sandbox import ModelSandbox
from . import model_state


class TFSandbox(ModelSandbox):
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

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error says that memory is exhausted."""
        return isinstance(error, tf.errors.ResourceExhaustedError)

    def free_memory(self) -> None:
        """Do nothing: TensorFlow keeps its memory."""

    def summary(self) -> str:
        """Return the summary of Keras."""
        lines: list[str] = []
        self._engine.trainer.model.summary(print_fn=lambda line, **kwargs: lines.append(line), line_length=100)
        return "\n".join(lines)

    def rate_of(self, optimizer: Any) -> float:
        """Return the learning rate of an optimizer."""
        return float(optimizer.learning_rate)
