"""Compatibility with TensorFlow: private names of what graphs capture, each with a fallback."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def changed_resources(graph: Any) -> list[Any]:
    """Return the resources that a FuncGraph captures, and that its operations may change."""
    try:
        from tensorflow.python.framework import auto_control_deps_utils as utils

        unchanged = {id(graph.inputs[index]) for index in utils.get_read_only_resource_input_indices_graph(graph)}
    except (ImportError, AttributeError):
        unchanged = set()
    return [given for given, inner in graph.captures if given.dtype == tf.resource and id(inner) not in unchanged]


def type_of_resource(handle: Any) -> tuple[Any, Any]:
    """Return the type and shape of the variable of a resource; None and None if it is not that of a variable."""
    parts = list(getattr(getattr(handle, "_handle_data", None), "shape_and_type", []))
    return (tf.as_dtype(parts[0].dtype), tf.TensorShape(parts[0].shape)) if len(parts) == 1 else (None, None)
