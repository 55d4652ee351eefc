"""Automatic mixed precision of torch, in bfloat16, or in float16 with a loss scale.

Source:
    https://pytorch.org/docs/stable/amp.html
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trackside.callbacks._util.display import first_names
from trackside.callbacks.errors import ArgumentError

from .base import Precision


class AutocastPrecision(Precision):
    """Automatic mixed precision without a loss scale, which bfloat16 does not need."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype

    def forward(self) -> AbstractContextManager[Any]:
        """Return the autocast context."""
        return torch.autocast(self.device.type, dtype=self.dtype)


class GradScalerPrecision(AutocastPrecision):
    """Automatic mixed precision in float16 with dynamic loss scaling.

    Source:
        Micikevicius et al. (2018), arXiv:1710.03740, section 3.2.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, torch.float16)
        self.scaler: torch.amp.GradScaler = torch.amp.GradScaler(device.type)

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Return both unchanged.

        Raises:
            ArgumentError: If a weight that is trained is in float16: the loss scale is for gradients in float32.
        """
        half = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype == torch.float16]
        if half:
            allowed = f"only with trained weights in float32, and {first_names(half)} is float16; call model.float()"
            raise ArgumentError("fp16", True, allowed)
        return model, optimizer

    def backward(
        self, loss: Tensor, weight: Any = 1.0, *, is_last: bool = True, only: Sequence[Tensor] | None = None
    ) -> None:
        """Run the backward pass of the scaled loss times ``weight``."""
        super().backward(self.scaler.scale(loss), weight, is_last=is_last, only=only)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the loss scale out of the gradients."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Step unless a gradient is not finite; return whether the step was skipped. Waits for the device."""
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() < before

    def skip(self, optimizer: Optimizer) -> None:
        """End an update in which a callback leaves out `step`; the loss scale stays. Waits for the device."""
        self.scaler.update(self.scaler.get_scale())

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its growth counter."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the scale and its growth counter."""
        if state:
            self.scaler.load_state_dict(state)
