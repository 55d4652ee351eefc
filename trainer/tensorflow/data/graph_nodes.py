"""Nodes of the graph of a tf.data.Dataset: what they draw, and new seeds for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ...data.sharding import derive_seed

SHUFFLES = {"ShuffleDataset", "ShuffleDatasetV2", "ShuffleDatasetV3", "ShuffleAndRepeatDataset"}
SHUFFLES |= {"ShuffleAndRepeatDatasetV2", "RandomDataset", "RandomDatasetV2"}
"""Dataset operations with seeds as inputs."""
CACHES = {"CacheDataset", "CacheDatasetV2"}
PYTHON = {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
PARALLEL = {"ParallelMapDataset", "ParallelMapDatasetV2"}

Seed = Callable[[], tuple[int, int]]
"""Returns the next pair of seeds."""


def source(name: str) -> str:
    """Return the name of the node that gives an input.

    Example:
        >>> source("^map:1"), source("map")
        ('map', 'map')
    """
    return name.removeprefix("^").split(":")[0]


def functions_in(node: Any) -> list[str]:
    """Return the names of the functions that a node calls."""
    return [called.name for _, value in sorted(node.attr.items()) for called in _called_in(value)]


def has_seed(node: Any) -> bool:
    """Return whether a node draws numbers by seeds of its own.

    A shuffle that is the same in every epoch does not: it may divide the data into a training and an evaluation set.
    """
    if node.op in SHUFFLES:
        return "reshuffle_each_iteration" not in node.attr or node.attr["reshuffle_each_iteration"].b
    return "seed" in node.attr and "seed2" in node.attr


def is_state(node: Any) -> bool:
    """Return whether a node is the variable of a generator: of Keras, or of ``tf.random.Generator``."""
    sizes = [dim.size for dim in node.attr["shape"].shape.dim] if node.op == "VarHandleOp" else []
    return sizes in ([2], [3]) and node.attr["dtype"].type in (tf.int64.as_datatype_enum, tf.uint32.as_datatype_enum)


def seeds_of(*parts: int) -> Seed:
    """Return a function that returns another pair of seeds at each call, all derived from ``parts``."""
    count = 0

    def seed() -> tuple[int, int]:
        nonlocal count
        count += 1
        value = derive_seed(*parts, count)
        return value % 2**31 + 1, value >> 32

    return seed


def reseed_states(graph: Any, seed: Seed) -> None:
    """Give the states of generators their first values."""
    nodes = {node.name: node for node in graph.node}
    for node in list(graph.node):
        if node.op == "AssignVariableOp" and is_state(nodes[source(node.input[0])]):
            constant = nodes[source(node.input[1])]
            value = tf.make_ndarray(constant.attr["value"].tensor)
            first = np.zeros_like(value)
            first[0] = seed()[0]
            constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(first))


def renamed(node: Any, functions: Any, suffix: str) -> Any:
    """Return a node that calls the functions with the suffix."""
    if node.op in functions:
        node.op += suffix
    for value in node.attr.values():
        for called in _called_in(value):
            if called.name in functions:
                called.name += suffix
    return node


def _called_in(value: Any) -> list[Any]:
    """Return the functions that an attribute of a node names."""
    one = [value.func] if value.HasField("func") else []
    return one + (list(value.list.func) if value.HasField("list") else [])
