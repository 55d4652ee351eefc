"""Private parts of Keras' optimizers, each with a fallback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def skip_gradient_reduction(optimizer: Any) -> bool:
    """Turn off a Keras optimizer's sum of gradients over replicas; return whether this is possible."""
    if not hasattr(optimizer, "_all_reduce_sum_gradients"):
        return False
    optimizer._all_reduce_sum_gradients = list
    return True


def has_keras_schedule(optimizer: Any) -> bool:
    """Return whether the learning rate of a Keras optimizer is one of Keras' schedules, which cannot be set."""
    return isinstance(getattr(optimizer, "_learning_rate", None), keras.optimizers.schedules.LearningRateSchedule)


def has_variables(optimizer: Any, variables: Sequence[Any]) -> bool:
    """Return whether an optimizer was built for these variables; True if unknown."""
    known = getattr(optimizer, "_trainable_variables", None)
    return known is None or {id(variable) for variable in variables} <= {id(variable) for variable in known}


def variables_known_to(optimizer: Any) -> list[Any]:
    """Return the variables of the model that an optimizer was built for; empty if unknown."""
    return list(getattr(optimizer, "_trainable_variables", ()))


def forget_variables(optimizer: Any) -> bool:
    """Undo the ``build`` of a Keras optimizer; return whether this is possible."""
    names = ("_variables", "_iterations", "_trainable_variables_indices")
    if not all(hasattr(optimizer, name) for name in names):
        return False
    own = {id(optimizer._iterations), id(getattr(optimizer, "_learning_rate", None))}
    optimizer._variables[:] = [variable for variable in optimizer._variables if id(variable) in own]
    optimizer._trainable_variables_indices.clear()
    optimizer.built = False
    return True


def slot_of(optimizer: Any, variable: Any, name: str) -> Any:
    """Return the optimizer's variable that belongs to a variable of the model.

    Args:
        name: Kind of the variable: "momentum" or "velocity".
    """
    slots = {"momentum": ("_momentums", "momentums"), "velocity": ("_velocities",)}[name]
    found = next((getattr(optimizer, attribute) for attribute in slots if hasattr(optimizer, attribute)), None)
    if found is not None and hasattr(optimizer, "_get_variable_index"):
        return found[optimizer._get_variable_index(variable)]
    wanted = f"{variable.path.replace('/', '_')}_{name}"
    return next(slot for slot in optimizer.variables if slot.name == wanted)


def takes_weight_decay(optimizer: Any, variable: Any) -> bool:
    """Return whether weight decay applies to a variable."""
    excludes = getattr(optimizer, "_use_weight_decay", None)
    return "bias" not in variable.name if excludes is None else bool(excludes(variable))


class OwnWeightDecay:
    """Turns off a Keras optimizer's weight decay of the variables; a subclass applies it in its own way."""

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing, instead of Keras' weight decay."""
