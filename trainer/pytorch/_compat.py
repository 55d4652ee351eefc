"""Private parts of torch, each with a fall-back, and errors of torch that have no type of their own."""

from __future__ import annotations

import torch
from torch import Tensor

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
