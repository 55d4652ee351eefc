"""Small helpers on torch objects, below every other module of the PyTorch trainer."""

from __future__ import annotations

from contextlib import nullcontext

from torch import nn

NULL_CONTEXT = nullcontext()
"""A context that does nothing, made once."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own model inside DistributedDataParallel or DataParallel."""
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return model
