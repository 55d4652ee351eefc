"""Copies of tensors on the host, taken by a save so quickly that training hardly waits for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checkpointing.saving import host_buffers
from ..checkpointing.saving.host_buffers import Buffers, Bytes, pageable

PLAIN = (Tensor, nn.Parameter)
"""The types whose copies are tensors of torch's own."""


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
