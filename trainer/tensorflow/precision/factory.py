"""Selection of a precision from the training arguments."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from .amp import LossScalePrecision
from .base import Precision

POLICIES = {"fp16": "mixed_float16", "bf16": "mixed_bfloat16"}


def precision_for(args: Any) -> Precision:
    """Return the precision that ``args`` select."""
    if args.fp16:
        return LossScalePrecision(POLICIES["fp16"])
    return Precision(POLICIES["bf16"] if args.bf16 else None)


def set_tf32(allowed: bool | None) -> None:
    """Allow or forbid TF32 in matrix products and convolutions; None keeps the setting of TensorFlow."""
    if allowed is not None:
        tf.config.experimental.enable_tensor_float_32_execution(allowed)
