"""Utilities for torch objects and objects with fields, independent of the other PyTorch modules.

They include the copies on the host that a save takes, so quickly that training hardly waits for them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideTypeError

from ..checkpointing.saving import host_buffers
from ..checkpointing.saving.host_buffers import Buffers, Bytes, pageable

NULL_CONTEXT = nullcontext()
"""A shared context that does nothing."""
PLAIN = (Tensor, nn.Parameter)
"""The types whose copies are tensors of torch's own."""


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


def copied(value: Any, buffers: Buffers | None = None) -> Any:
    """Return nested values with every tensor copied to the host; tensors that are the same view share their copy.

    Strides are kept where a tensor has neither gaps nor overlaps, as by ``Tensor.to(copy=True)``.

    Args:
        buffers: Memory for the copies; without it, new memory.
    """
    copier = _Copier(buffers)
    copy = copier.copy(value)
    host_buffers.copy_all(copier.pairs)
    for device in copier.devices:
        torch.cuda.synchronize(device)
    return copy


def place_of(tensor: Tensor) -> int:
    """Return a key shared by tensors that share memory: the address, or without one the object id."""
    return tensor.data_ptr() or id(tensor)


def pinned(size: int) -> Bytes:
    """Return host memory that a GPU can write to while the host does something else; pageable if there is too little.

    torch rounds the size up to a power of two.
    """
    try:
        memory: Bytes = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
    except RuntimeError:
        return pageable(size)
    return memory


def as_weight(weight: Any) -> Any:
    """Return the second part of what compute_loss returned as a number, or as a tensor that is not on the CPU.

    Raises:
        TracksideTypeError: If it cannot be a weight, since it is the model's outputs or the like.
    """
    if isinstance(weight, Tensor):
        is_one = weight.numel() == 1 and not weight.requires_grad
        what = f"a tensor of shape {tuple(weight.shape)}{' with a gradient' if weight.requires_grad else ''}"
    else:
        is_one, what = isinstance(weight, (int, float, np.number)), f"of type {type(weight).__name__}"
    if not is_one:
        raise TracksideTypeError(
            f"compute_loss, or loss_fn, returned a pair whose second part is {what}; it returns a mean loss, or "
            "(loss_sum, weight) with the number of items as weight. (loss, outputs) is for return_outputs=True only"
        )
    return weight.item() if isinstance(weight, np.number) or (isinstance(weight, Tensor) and weight.is_cpu) else weight


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


class _Copier:
    def __init__(self, buffers: Buffers | None) -> None:
        self.buffers = buffers
        self.devices: set[torch.device] = set()
        self.pairs: list[tuple[Bytes, Bytes]] = []
        self.known: dict[Any, Tensor] = {}

    def copy(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._shared(value)
        if isinstance(value, dict):
            return {key: self.copy(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            parts = [self.copy(part) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        return value

    def _shared(self, tensor: Tensor) -> Tensor:
        is_plain = type(tensor) in PLAIN and tensor.layout is torch.strided and not tensor.is_quantized
        key = _view_of(tensor) if is_plain else id(tensor)
        if key not in self.known:
            is_large = is_plain and tensor.device.type in ("cpu", "cuda") and tensor.nbytes >= host_buffers.SMALL_BYTES
            self.known[key] = (
                tensor.detach().to("cpu", copy=True)
                if self.buffers is None or not is_large
                else self._into(self.buffers, tensor)
            )
        return self.known[key]

    def _into(self, buffers: Buffers, tensor: Tensor) -> Tensor:
        source, memory = tensor.detach(), buffers.take(tensor.nbytes)
        strides = torch.empty_like(source, device="meta").stride()
        copy = torch.from_numpy(memory).view(tensor.dtype).as_strided(tensor.shape, strides)
        if tensor.is_cpu and tensor.stride() == strides and not (tensor.is_conj() or tensor.is_neg()):
            self.pairs.append((memory, source.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()))
            return copy
        if tensor.is_cuda:
            self.devices.add(tensor.device)
        return copy.copy_(source, non_blocking=True)


def _view_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that two tensors share if they are the same view of the same memory."""
    return place_of(tensor), tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj(), tensor.is_neg()
