"""Layers of a model replaced by the fused ones of the package liger-kernel."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from .._torch_util import unwrap


def use_liger_kernels(model: Any, options: Mapping[str, Any] | None) -> None:
    """Replace layers of ``model``, in place; models whose type the package does not know stay as they are.

    Args:
        options: Which layers, such as ``{"rope": True, "cross_entropy": False}``.

    Source:
        ``_apply_liger_kernel_to_instance`` of liger_kernel.transformers, which transformers' Trainer calls too.
    """
    liger: Any = importlib.import_module("liger_kernel.transformers")
    liger._apply_liger_kernel_to_instance(model=unwrap(model), **(options or {}))
