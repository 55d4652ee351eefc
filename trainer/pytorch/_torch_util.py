"""Utilities for torch objects and objects with fields, independent of the other PyTorch modules."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

NULL_CONTEXT = nullcontext()
"""A shared context that does nothing."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own model inside DistributedDataParallel, DataParallel and the wrapper of torch.compile."""
    while True:
        is_parallel = isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))
        name = "module" if is_parallel else "_orig_mod"
        inner = model._modules[name] if name in model._modules else None  # noqa: SIM401  (a scripted one has no `get`)
        if inner is None:
            return model
        model = inner


def signature_of(model: nn.Module) -> inspect.Signature:
    """Return the signature of the forward method of the user's own model; of a traced one, by its graph."""
    forward: Any = unwrap(model).forward
    try:
        return inspect.signature(forward)
    except ValueError:
        names = [argument.name for argument in forward.schema.arguments[1:]]
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])


def distributed_part(model: nn.Module, *, by_trainer: bool) -> str:
    """Return what of a model the user has distributed, in words; empty if nothing is.

    Args:
        by_trainer: Whether the trainer shards models, whole, so that a sharded one may be from an earlier run.
    """
    if by_trainer and any(cls.__name__ == "FSDPModule" for cls in type(unwrap(model)).__mro__):
        return ""
    for name, module in model.named_modules():
        names = {cls.__name__ for cls in type(module).__mro__}
        for cls in ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"):
            if cls in names:
                return f"{'fully_shard' if cls == 'FSDPModule' else cls}{f' (its module {name})' if name else ''}"
    return next((f"DTensors ({name})" for name, item in model.named_parameters() if hasattr(item, "full_tensor")), "")


def names_without_values(model: nn.Module, device: torch.device) -> list[str]:
    """Return the names of weights on the device meta, unless a dispatcher loads them or training is there."""
    if device.type == "meta" or getattr(model, "hf_device_map", None):
        return []
    return [name for name, item in chain(model.named_parameters(), model.named_buffers()) if item.is_meta]


def is_placed(model: nn.Module) -> bool:
    """Return whether a model stays where it is: dispatched or quantized by transformers, or on several devices."""
    names = ("hf_device_map", "is_quantized", "quantization_method", "is_loaded_in_8bit", "is_loaded_in_4bit")
    if any(getattr(model, name, None) for name in names):
        return True
    return len({parameter.device for parameter in model.parameters()}) > 1


def has_fields(value: Any) -> bool:
    """Return whether ``value`` is an object with fields: a dataclass, or an object with instance attributes."""
    return dataclasses.is_dataclass(value) or hasattr(value, "__dict__")


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, a named tuple or another object, by name."""
    if dataclasses.is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return value._asdict() if hasattr(value, "_asdict") else dict(vars(value))


def operations_in(model: Any) -> Callable[[Any], int] | None:
    """Return a function that counts the floating point operations of a batch, forward and backward; None without one.

    That is a method ``floating_point_ops`` of the model, or for models of transformers the product of their size and
    the elements of their main input.

    Source:
        Kaplan et al. (2020), arXiv:2001.08361, section 2.1, as in the Trainer of transformers.
    """
    own: Callable[[Any], int] | None = getattr(model, "floating_point_ops", None)
    name = getattr(model, "main_input_name", None)
    if own is not None or name is None or not hasattr(model, "num_parameters"):
        return own
    size = cache(lambda: int(model.num_parameters(exclude_embeddings=True)))

    def count(inputs: Any) -> int:
        main = inputs.get(name) if isinstance(inputs, Mapping) else None
        return 6 * main.numel() * size() if isinstance(main, Tensor) else 0

    return count
