"""State outside of the model that a training step changes, such as a ``tf.random.Generator`` in the closure of a loss.

Nothing refers to it but the functions that are traced. So it is found among what they capture and change, in the order
in which the user's code meets it, which is the same in every process. A checkpoint is restored before that: its values
wait until the functions are traced.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from ..data.pipeline import eager_states
from ..weights.model_state import variables_of
from ._compat import changed_resources, type_of_resource
from .state import DRAWS

logger: logging.Logger = logging.getLogger("trackside.trainer")

LIMIT = 4096
"""Values that a variable may have to be kept: it is written as JSON, with the states of random number generators."""


class Outside:
    """The variables outside of the model, of one run.

    Args:
        step: The `TFTrainStep`, whose model, optimizer and loss scale have files of their own in a checkpoint.
    """

    def __init__(self, step: Any) -> None:
        self._step = step
        self._found: list[Any] = []
        self._waiting: list[Any] = []
        self._told: set[str] = set()

    def note(self, graph: Any, touched: Iterable[Any]) -> None:
        """Take the variables that a traced function changes.

        Args:
            graph: The FuncGraph of the function.
            touched: The resources that the user's part of it captured.
        """
        known = {id(handle) for variable in self._kept_elsewhere() for handle in handles_of(variable)}
        known |= {id(handle) for handle in self._found}
        changed = {id(handle) for handle in changed_resources(graph)}
        for handle in touched:
            if id(handle) in changed and id(handle) not in known:
                known.add(id(handle))
                if type_of_resource(handle)[0] is not None or changes_tables(graph):
                    self._take(handle)

    def _kept_elsewhere(self) -> list[Any]:
        trainer, own = self._step.trainer, [*vars(self._step.precision).values(), *DRAWS.variables()]
        with self._step.model_of_run():
            return [*variables_of(trainer.model), *trainer.optimizer.variables, *eager_states(), *own]

    def _take(self, handle: Any) -> None:
        dtype, shape = type_of_resource(handle)
        is_number = dtype is not None and (dtype.is_floating or dtype.is_integer or dtype.is_bool)
        if not is_number or shape.num_elements() is None or shape.num_elements() > LIMIT:
            what = "a table" if dtype is None else f"a variable of {dtype.name} with shape {shape}"
            self._tell(
                f"the step changes {what}, which is not of the model and is not saved. Make it an attribute of a layer"
            )
            return
        self._found.append(handle)
        if self._waiting and len(self._found) > len(self._waiting):
            self._tell(
                f"the step changes more variables outside of the model than the checkpoint has, {len(self._waiting)}"
            )
        self._assign(len(self._found) - 1)

    def value(self) -> list[Any]:
        """Return the values of all variables, and those that wait for theirs."""
        return [_read(handle).tolist() for handle in self._found] + self._waiting[len(self._found) :]

    def restore(self, values: list[Any]) -> None:
        """Restore what `value` returned, now or when the functions are traced."""
        self._waiting = list(values)
        for index in range(len(self._found)):
            self._assign(index)

    def _assign(self, index: int) -> None:
        if index >= len(self._waiting):
            return
        handle = self._found[index]
        dtype, shape = type_of_resource(handle)
        value = np.asarray(self._waiting[index])
        if value.size != math.prod(shape.as_list()):
            self._tell(f"variable {index} outside of the model has shape {shape}, in the checkpoint {value.shape}")
            return
        value = value.astype(dtype.as_numpy_dtype).reshape(shape.as_list())
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(value, dtype))

    def _tell(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            logger.warning("a resumed run will differ: %s", why)


def changes_tables(graph: Any) -> bool:
    """Return whether an operation of a graph changes a lookup table; those of Keras' layers are only read."""
    written = graph.as_graph_def()
    nodes = [*written.node, *(node for function in written.library.function for node in function.node_def)]
    return any(node.op.startswith(("LookupTableInsert", "LookupTableRemove", "LookupTableImport")) for node in nodes)


def handles_of(variable: Any) -> list[Any]:
    """Return the resources of a variable of Keras or TensorFlow, one for each replica."""
    variable = getattr(variable, "value", variable) if hasattr(variable, "path") else variable
    parts = getattr(variable, "values", None) or [variable]
    return [part.handle for part in parts if hasattr(part, "handle")]


def _read(handle: Any) -> Any:
    dtype, _ = type_of_resource(handle)
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype).numpy()
