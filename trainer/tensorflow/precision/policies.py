"""Dtype policies of the layers of a Keras model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from trackside.callbacks.errors import ArgumentError, TracksideValueError

from .._compat import layers_of
from .base import Precision


@contextmanager
def policy_for_new_layers(policy: str | None) -> Iterator[None]:
    """Return a context in which new layers get ``policy``; None has no effect."""
    if policy is None:  # a policy that is set, even as it was, no longer follows floatx
        yield
        return
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def apply_policy(model: Any, policy: str | None) -> dict[Any, Any]:
    """Set ``policy`` on every layer of ``model`` that computes in float32, for any kind of model.

    Variables keep their float32 values. Layers with another policy keep it.

    Returns:
        The previous policies by layer, for `restore_policies`.

    Raises:
        TracksideValueError: If a layer's variables are not float32, or its policy cannot be changed.
    """
    before: dict[Any, Any] = {}
    if policy is None:
        return before
    for layer in layers_of(model):
        if not keras.backend.is_float_dtype(layer.compute_dtype):
            continue  # it computes on strings or whole numbers, such as TextVectorization
        if layer.dtype_policy.name == "float32":
            before[layer] = layer.dtype_policy
            _set_policy(layer, keras.DTypePolicy(policy), policy)
        elif layer.variable_dtype != "float32" and layer.variables:
            raise TracksideValueError(_what_to_do(layer, policy, f"its variables are {layer.variable_dtype}"))
    return before


def is_made_in(model: Any, policy: str | None) -> bool:
    """Return whether layers of ``model`` were created with ``policy``; then other layers differ on purpose."""
    return any(layer.dtype_policy.name == policy for layer in layers_of(model))


def check_scaled(model: Any, precision: Precision) -> None:
    """Raise ArgumentError if ``model`` computes in float16 and the loss is not scaled."""
    if not precision.is_scaled and any(layer.compute_dtype == "float16" for layer in layers_of(model)):
        raise ArgumentError("fp16", False, "True for a model that computes in float16, or small gradients become zero")


def restore_policies(before: dict[Any, Any]) -> None:
    """Restore the policies that `apply_policy` returned."""
    for layer, policy in before.items():
        layer.dtype_policy = policy


def _set_policy(layer: Any, policy: Any, name: str) -> None:
    try:
        layer.dtype_policy = policy
    except (ValueError, AttributeError) as error:
        raise TracksideValueError(_what_to_do(layer, name, str(error))) from error
    if layer.compute_dtype != policy.compute_dtype:
        raise TracksideValueError(_what_to_do(layer, name, f"it stays at {layer.compute_dtype}"))


def _what_to_do(layer: Any, policy: str, why: str) -> str:
    return (
        f"the layer {layer.name!r} ({type(layer).__name__}) cannot compute in {policy}: {why}. Call "
        f"keras.config.set_dtype_policy({policy!r}) before you build the model, or give the layer dtype={policy!r}"
    )
