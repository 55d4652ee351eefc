"""Precision, inside the step: the dtype policy of every layer, and the scale of the loss in float16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideValueError

POLICIES = {"fp16": "mixed_float16", "bf16": "mixed_bfloat16"}

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
"""Scale and interval are those of torch's GradScaler."""


class FullPrecision:
    """Everything as the model is.

    Attributes:
        policy: Keras' name for how layers compute; None to leave them as they are.
        is_scaled: Whether the loss is scaled, so that a step may be held back.
    """

    policy: str | None = None
    is_scaled = False

    def scaled(self, loss: Any) -> Any:
        """Return the loss as it goes backward."""
        return loss

    def unscaled(self, factor: Any) -> Any:
        """Return the factor on the gradients with the loss scale divided out."""
        return factor

    def update(self, is_finite: Any) -> None:
        """Adapt the scale after an update."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class Mixed(FullPrecision):
    """Layers compute in bfloat16 on float32 variables, which needs no loss scale.

    Source:
        https://keras.io/api/mixed_precision/
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy


class ScaledMixed(Mixed):
    """Layers compute in float16 on float32 variables, with dynamic loss scaling.

    Source:
        Micikevicius et al. (2018), arXiv:1710.03740, section 3.2.
    """

    is_scaled = True

    def __init__(self) -> None:
        super().__init__(POLICIES["fp16"])
        self.scale = tf.Variable(INITIAL_SCALE, dtype=tf.float32, trainable=False, name="loss_scale")
        self.good_steps = tf.Variable(0, dtype=tf.int32, trainable=False, name="good_steps")

    def scaled(self, loss: Any) -> Any:
        """Return the loss times the scale."""
        return loss * tf.cast(self.scale, loss.dtype)

    def unscaled(self, factor: Any) -> Any:
        """Return the factor on the gradients with the loss scale divided out."""
        return factor / self.scale

    def update(self, is_finite: Any) -> None:
        """Halve the scale where gradients were not finite; double it after many updates that were."""
        good = tf.where(is_finite, self.good_steps + 1, 0)
        grows = good >= GROWTH_INTERVAL
        grown = tf.where(grows, self.scale * 2.0, self.scale)
        self.scale.assign(tf.where(is_finite, grown, self.scale * 0.5))
        self.good_steps.assign(tf.where(grows, 0, good))

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its growth counter."""
        return {"scale": float(self.scale.numpy()), "good_steps": int(self.good_steps.numpy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back scale and growth counter."""
        if state:
            self.scale.assign(state["scale"])
            self.good_steps.assign(state["good_steps"])


def precision_of(args: Any) -> FullPrecision:
    """Return the precision that ``args`` ask for."""
    if args.fp16:
        return ScaledMixed()
    return Mixed(POLICIES["bf16"]) if args.bf16 else FullPrecision()


def set_tf32(allowed: bool | None) -> None:
    """Allow or forbid TF32 in matrix products and convolutions; None leaves TensorFlow's setting."""
    if allowed is not None:
        tf.config.experimental.enable_tensor_float_32_execution(allowed)


# -- policies ---------------------------------------------------------------------------------------------------------


@contextmanager
def policy_for_new_layers(policy: str | None) -> Iterator[None]:
    """A context in which layers are made with ``policy``; None changes nothing."""
    before = keras.config.dtype_policy()
    if policy is not None:
        keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def apply_policy(model: Any, policy: str | None) -> dict[Any, Any]:
    """Let every layer of ``model`` that computes in float32 compute by ``policy``, however the model was built.

    Variables keep their float32 values. Layers with another policy keep it.

    Returns:
        The policies there were before, by layer, for `restore_policies`.

    Raises:
        TracksideValueError: If a layer's variables are not float32, or it does not let its policy be changed.
    """
    before: dict[Any, Any] = {}
    if policy is None:
        return before
    for layer in model._flatten_layers():
        if layer.dtype_policy.name == "float32":
            before[layer] = layer.dtype_policy
            _set_policy(layer, keras.DTypePolicy(policy), policy)
        elif layer.variable_dtype != "float32" and layer.variables:
            raise TracksideValueError(_what_to_do(layer, policy, f"its variables are {layer.variable_dtype}"))
    return before


def is_made_in(model: Any, policy: str | None) -> bool:
    """Return whether layers of ``model`` were made with ``policy``: those that were not are so on purpose."""
    return any(layer.dtype_policy.name == policy for layer in model._flatten_layers())


def check_scaled(model: Any, precision: FullPrecision) -> None:
    """Raise ArgumentError if ``model`` computes in float16 and nobody scales the loss."""
    if not precision.is_scaled and any(layer.compute_dtype == "float16" for layer in model._flatten_layers()):
        raise ArgumentError("fp16", False, "True for a model that computes in float16, or small gradients become zero")


def restore_policies(before: dict[Any, Any]) -> None:
    """Give layers back the policies that `apply_policy` returned."""
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
