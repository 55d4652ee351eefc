"""What tells whether training has changed numbers and variables of a trainer's parts that no checkpoint holds."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from ...base_engine.unsaved import SAMPLE, MarkOf, Marks, StateOf, marks_in, marks_of_holders, spread


def marks_of(trainer: Any, model: Any) -> Marks:
    """Yield the marks of what is in none of the states of a trainer's parts.

    Looked at are the loss, and what the trainer, its datasets and its callbacks have. A checkpoint holds all variables
    of the model; its numbers are constants of the compiled step.
    """
    mark_of = _mark_of(trainer, model)
    if trainer.loss_fn is not None and not isinstance(trainer.loss_fn, type):
        yield from marks_in(getattr(trainer.loss_fn, "__dict__", {}), "loss_fn.", mark_of)
    yield from marks_of_holders(trainer, mark_of)


def _mark_of(trainer: Any, model: Any) -> MarkOf:
    """Return a function that marks variables, models and optimizers that are not those of the run."""
    known = {id(variable) for variable in (*model.variables, *getattr(trainer.optimizer, "variables", ()))}
    of_run = (model, trainer.loss_fn, trainer.optimizer)

    def mark_of(value: Any) -> Any:
        if any(value is each for each in of_run) or isinstance(value, keras.metrics.Metric):
            return None
        if isinstance(value, (keras.Layer, keras.optimizers.Optimizer)):
            own = [each for each in value.variables if id(each) not in known]
            return StateOf(map(_sample, spread(own))) if own else None
        is_variable = isinstance(value, (keras.Variable, tf.Variable)) and id(value) not in known
        return _sample(value) if is_variable else None

    return mark_of


def _sample(variable: Any) -> bytes:
    """Return the first values of a variable."""
    values = keras.ops.convert_to_numpy(keras.ops.reshape(variable, (-1,))[:SAMPLE])
    return bytes(values.tobytes())
