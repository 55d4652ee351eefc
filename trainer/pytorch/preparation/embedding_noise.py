"""Noise on embeddings in training (NEFTune).

Source:
    Jain et al., 2023, https://arxiv.org/abs/2310.05914: uniform noise, scaled by alpha / sqrt(length * width).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trackside.callbacks.errors import ArgumentError

from .._torch_util import unwrap


def add_noise(model: nn.Module, alpha: float) -> RemovableHandle:
    """Add noise to the output of the input embeddings of ``model``, in training mode; return what removes it.

    Args:
        alpha: Scale of the noise.

    Raises:
        ArgumentError: If the model does not tell which of its modules are the input embeddings.
    """

    def noisy(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        most = alpha / math.sqrt(output.shape[-2] * output.shape[-1])
        return output + torch.empty_like(output).uniform_(-most, most)

    return _embeddings_of(model, alpha).register_forward_hook(noisy)


def _embeddings_of(model: nn.Module, alpha: float) -> nn.Module:
    inner: Any = unwrap(model)
    found = [module for module in inner.modules() if isinstance(module, nn.Embedding)]
    told = inner.get_input_embeddings() if hasattr(inner, "get_input_embeddings") else None
    if told is None and len(found) != 1:
        allowed = (
            f"None, unless the model has get_input_embeddings(); {type(inner).__name__} has {len(found)} Embedding"
        )
        raise ArgumentError("neftune_noise_alpha", alpha, allowed)
    embeddings: nn.Module = found[0] if told is None else told
    return embeddings
