"""Precision, inside the step: the context of the forward pass, the backward pass, the optimizer's step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed.strategy import NOTHING

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

_run_engine = getattr(getattr(torch.autograd.Variable, "_execution_engine", None), "run_backward", None)


def run_backward(loss: Tensor, gradient: Tensor) -> None:
    """Do as ``torch.autograd.backward`` without its checks, in half the time.

    Args:
        loss: The tensor that the backward pass begins at.
        gradient: The gradient of ``loss``, of the same shape and dtype.
    """
    if _run_engine is None or type(loss) is not Tensor:  # a subclass may go backward in a way of its own
        torch.autograd.backward((loss,), (gradient,))
    else:
        _run_engine((loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True)


class FullPrecision:
    """Everything as the model is.

    Attributes:
        is_last_backward: Whether the backward pass that comes is the last one of its update.
    """

    is_last_backward = True
    _gradient: Tensor | None = None
    _gradient_of: tuple[Any, ...] = ()

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Return model, on its device and not yet wrapped, and optimizer as the step is to use them."""
        return model, optimizer

    def parameters(self, optimizer: Optimizer) -> list[Tensor]:
        """Return the parameters whose gradients are clipped."""
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def clear(self, optimizer: Optimizer) -> bool:
        """Clear the gradients in a way of its own; return whether there is one."""
        return False

    def forward(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes."""
        return NOTHING

    def backward(self, loss: Tensor, share: Any = 1.0) -> None:
        """Run the backward pass of ``loss`` times ``share``, a number or a tensor.

        The share goes in as the gradient of the loss, kept for the next time: no operation for it, forward or back.
        """
        if isinstance(share, Tensor):
            gradient = share.to(loss.dtype).expand_as(loss)
        else:
            what = (share, loss.shape, loss.dtype, loss.device)
            if self._gradient is None or what != self._gradient_of:
                self._gradient, self._gradient_of = torch.full_like(loss.detach(), share), what
            gradient = self._gradient
        run_backward(loss, gradient)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the loss scale out of the gradients."""

    def step(self, optimizer: Optimizer) -> bool:
        """Step the optimizer; return whether the step was held back because gradients were not finite."""
        optimizer.step()
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class Autocast(FullPrecision):
    """Native automatic mixed precision in bfloat16, which needs no loss scale.

    Source:
        https://pytorch.org/docs/stable/amp.html
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype

    def forward(self) -> AbstractContextManager[Any]:
        """Return the autocast context."""
        return torch.autocast(self.device.type, dtype=self.dtype)


class ScaledAutocast(Autocast):
    """Native automatic mixed precision in float16 with dynamic loss scaling.

    Source:
        Micikevicius et al. (2018), arXiv:1710.03740, section 3.2.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, torch.float16)
        self.scaler = torch.amp.GradScaler(device.type)

    def backward(self, loss: Tensor, share: Any = 1.0) -> None:
        """Run the backward pass of the scaled loss times ``share``."""
        super().backward(self.scaler.scale(loss), share)

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the loss scale out of the gradients."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Step unless a gradient is not finite. Waits for the device, as the scaler itself does."""
        before = self.scaler.get_scale()
        self.scaler.step(optimizer)
        self.scaler.update()
        return self.scaler.get_scale() < before

    def state_dict(self) -> dict[str, Any]:
        """Return the scale and its growth counter."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back scale and growth counter."""
        if state:
            self.scaler.load_state_dict(state)


def precision_of(args: Any, device: torch.device) -> FullPrecision:
    """Return the precision that ``args`` ask for."""
    if args.fp16 and args.fp16_backend == "apex":
        from .apex import ApexPrecision

        return ApexPrecision(args.fp16_opt_level)
    if args.fp16:
        return ScaledAutocast(device)
    if args.bf16:
        return Autocast(device, torch.bfloat16)
    return FullPrecision()


def set_tf32(allowed: bool | None) -> None:
    """Allow or forbid TF32 in matrix products and convolutions; None leaves torch's setting."""
    if allowed is not None:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


class full_evaluation:
    """A context in which a model is in evaluation mode, in ``dtype`` if one is given, without gradients.

    In a lower precision, copies stand in the places of parameters and buffers, which themselves are not touched: to
    give a parameter data of another dtype would cut off DDP, which has hooked into the gradient that it had.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype | None) -> None:
        self.model = model
        self.dtype = dtype

    def __enter__(self) -> None:
        self.was_training = self.model.training
        self.kept = [] if self.dtype is None else _floating(self.model)
        copies = {id(tensor): _lowered(tensor, self.dtype) for _, _, tensor in self.kept}  # one of each that is tied
        for module, name, tensor in self.kept:
            setattr(module, name, copies[id(tensor)])
        self.model.eval()
        self.no_grad = torch.no_grad()
        self.no_grad.__enter__()

    def __exit__(self, *details: Any) -> None:
        self.no_grad.__exit__(*details)
        for module, name, tensor in self.kept:
            setattr(module, name, tensor)
        self.model.train(self.was_training)


def _floating(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Return every parameter and buffer of floating point with its module and its name there."""
    return [
        (module, name, tensor)
        for module in model.modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and tensor.is_floating_point()
    ]


def _lowered(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    low = tensor.detach().to(dtype)
    return nn.Parameter(low, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else low
