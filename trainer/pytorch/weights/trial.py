"""Trials of a PyTorch model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...base_engine.trial import ModelTrial
from .._torch_util import unwrap
from ..precision.eval_mode import modes_of, restore_modes


class TorchTrial(ModelTrial):
    """Tries a PyTorch model."""

    @contextmanager
    def model_kept(self) -> Iterator[None]:
        """Return a context that ends with parameters, buffers, gradients and modes as they were."""
        model = unwrap(self._engine.trainer.model)
        modes, parameters = modes_of(model), list(model.parameters())
        values = [(tensor, tensor.detach().clone()) for tensor in (*parameters, *model.buffers())]
        gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in values:
                    tensor.copy_(value)
            for parameter, gradient, is_trained in gradients:
                parameter.grad = gradient
                parameter.requires_grad_(is_trained)
            restore_modes(modes)

    def copied_optimizer(self, optimizer: Any) -> Any:
        """Return a copy of an optimizer of the user's, with a state of its own."""
        parameters = unwrap(self._engine.trainer.model).parameters()
        return copy.deepcopy(optimizer, {id(parameter): parameter for parameter in parameters})

    def rate_of(self, optimizer: Any) -> float:
        """Return the highest learning rate among the groups of an optimizer."""
        return max(float(group["lr"]) for group in optimizer.param_groups)
