"""Precision of the training step: forward context, backward pass and optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trackside.callbacks.errors import TracksideValueError

from .._compat import run_backward
from .._torch_util import NULL_CONTEXT


def without_gradient() -> str:
    """Return the message for a loss that has no gradient."""
    if not torch.is_grad_enabled():
        return (
            "gradients are switched off around train(), by torch.no_grad(), torch.inference_mode() or "
            "torch.set_grad_enabled(False); call train() outside of it"
        )
    return (
        "the loss has no gradient, since it depends on no parameter that is trained: compute_loss, loss_fn or the "
        "model cuts it off, for example by detach(), item(), argmax() or torch.no_grad()"
    )


class Precision(ABC):
    """The number formats of a step, and its loss scaling.

    Attributes:
        has_copies: Whether the optimizer steps copies of the model's parameters.
    """

    has_copies = False
    _gradient: Tensor | None = None
    _gradient_of: tuple[Any, ...] = ()

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Return the model, on its device and not yet wrapped, and the optimizer, in the forms that the step uses."""
        return model, optimizer

    def parameters(self, optimizer: Optimizer) -> list[Tensor]:
        """Return the parameters whose gradients are clipped."""
        return [parameter for group in optimizer.param_groups for parameter in group["params"]]

    @abstractmethod
    def forward(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes."""

    def backward(
        self, loss: Tensor, weight: Any = 1.0, *, is_last: bool = True, only: Sequence[Tensor] | None = None
    ) -> None:
        """Run the backward pass of ``loss`` times ``weight``, a number or a tensor.

        The weight is passed as the gradient of the loss and cached, which needs no additional operation.

        Args:
            is_last: Whether it is the last backward pass of its update.
            only: The parameters that get gradients; the graph is kept, for other losses. None: all parameters.

        Raises:
            TracksideValueError: If the loss has no gradient.
        """
        if isinstance(weight, Tensor):
            gradient = weight.to(loss.dtype).expand_as(loss)
        else:
            what = (weight, loss.shape, loss.dtype, loss.device)
            if self._gradient is None or what != self._gradient_of:
                self._gradient, self._gradient_of = torch.full_like(loss.detach(), weight), what
            gradient = self._gradient
        try:
            if only is None:
                run_backward(loss, gradient)
            else:
                torch.autograd.backward((loss,), (gradient,), retain_graph=True, inputs=only)
        except RuntimeError as error:
            if not loss.requires_grad:
                raise TracksideValueError(without_gradient()) from error
            raise

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the loss scale out of the gradients."""

    def step(self, optimizer: Optimizer) -> bool:
        """Step the optimizer; return whether the step was skipped because gradients were not finite."""
        optimizer.step()
        return False

    def skip(self, optimizer: Optimizer) -> None:
        """End an update in which a callback leaves out `step`; the loss scale stays."""

    def clear(self, optimizer: Optimizer) -> bool:
        """Clear the gradients in a precision-specific way, if there is one; return whether it did."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""


class FullPrecision(Precision):
    """Numbers in the formats of the model."""

    def forward(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return NULL_CONTEXT
