"""Utilities for torch objects and objects with fields, independent of the other PyTorch modules."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

from torch import nn

NULL_CONTEXT = nullcontext()
"""A shared context that does nothing."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own model inside DistributedDataParallel, DataParallel and the wrapper of torch.compile."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif model._modules.get("_orig_mod") is not None:
            model = model._modules["_orig_mod"]
        else:
            return model


def has_fields(value: Any) -> bool:
    """Return whether ``value`` is an object with fields: a dataclass, or an object with instance attributes."""
    return dataclasses.is_dataclass(value) or hasattr(value, "__dict__")


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, a named tuple or another object, by name."""
    if dataclasses.is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return value._asdict() if hasattr(value, "_asdict") else dict(vars(value))
