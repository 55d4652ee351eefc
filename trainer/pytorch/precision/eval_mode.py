"""Evaluation mode of a model: no dropout, no gradients, optionally a lower precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def eval_mode(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Return a context in which a model is in evaluation mode, in ``dtype`` if given, without gradients.

    In a lower precision, copies replace parameters and buffers, which themselves are unchanged: data of another dtype
    in a parameter would detach DDP's hook on its gradient.
    """
    was_training = model.training
    held = [] if dtype is None else _floating(model)
    copies = {id(tensor): _cast(tensor, dtype) for _, _, tensor in held}  # one copy for tied tensors
    for module, name, tensor in held:
        setattr(module, name, copies[id(tensor)])
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, name, tensor in held:
            setattr(module, name, tensor)
        model.train(was_training)


def _floating(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Return every floating-point parameter and buffer with its module and its name in the module."""
    return [
        (module, name, tensor)
        for module in model.modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and tensor.is_floating_point()
    ]


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    cast = tensor.detach().to(dtype)
    return nn.Parameter(cast, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cast
