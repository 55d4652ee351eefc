"""Modes of a model's modules: evaluation without dropout and gradients, optionally in a lower precision, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Modes = list[tuple[nn.Module, bool]]
"""Modules of a model, a module before its parts, each with whether it is in training mode."""


@contextmanager
def eval_mode(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Return a context in which a model is in evaluation mode, in ``dtype`` if given, without gradients.

    Afterwards every module is in the mode in which it was. In a lower precision, copies replace parameters and buffers,
    which themselves are unchanged: data of another dtype in a parameter would detach DDP's hook on its gradient.
    """
    modes = modes_of(model)
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
        restore_modes(modes)


def modes_of(model: nn.Module) -> Modes:
    """Return the mode of every module."""
    return [(module, module.training) for module in model.modules()]


def restore_modes(modes: Modes) -> None:
    """Put every module back into its mode; a module with its own ``train``, which may do more, is asked to do so."""
    for index, (module, is_training) in enumerate(modes):
        if index == 0 or (module.training != is_training and type(module).train is not nn.Module.train):
            module.train(is_training)
        module.training = is_training


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
