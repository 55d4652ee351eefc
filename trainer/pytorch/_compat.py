"""Compatibility with torch: private functions, each with a fallback, and errors without their own type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import Store  # torch.distributed has it, untyped
from torch.nn.modules import batchnorm
from torch.utils.data import _utils as data_internals

_run_engine = getattr(getattr(torch.autograd.Variable, "_execution_engine", None), "run_backward", None)


def run_backward(loss: Tensor, gradient: Tensor) -> None:
    """Run the backward pass like ``torch.autograd.backward``, without its checks, in half the time.

    Args:
        loss: The tensor at which the backward pass begins.
        gradient: The gradient of ``loss``, of the same shape and dtype.
    """
    # a subclass may override the backward pass
    if _run_engine is None or type(loss) not in (Tensor, nn.Parameter):
        torch.autograd.backward((loss,), (gradient,))
    else:
        _run_engine((loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True)


def node_kind(node: Any) -> str:
    """Return the operation of a node of autograd, such as "Mul", without the suffix of torch's name for it."""
    return _kind_of(node.name())


@cache  # read in every micro-batch
def _kind_of(name: str) -> str:
    return name.rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def saved(node: Any, name: str) -> Any:
    """Return what a node of autograd keeps for the backward pass under ``name``; None without it."""
    return getattr(node, f"_saved_{name}", None)


def shape_of(node: Any, index: int) -> tuple[int, ...]:
    """Return the shape of a result of a node of autograd, without unpacking what it keeps; empty if it is unknown."""
    results = getattr(node, "_input_metadata", ())
    return tuple(results[index].shape) if index < len(results) else ()


def set_gradient_sync(model: nn.Module, value: bool) -> None:
    """Set the flag that DDP's no_sync sets, bypassing the slow attribute assignment of nn.Module."""
    object.__setattr__(model, "require_backward_grad_sync", value)


def is_unused_parameter_error(error: RuntimeError) -> bool:
    """Return whether DDP reports a parameter without a gradient in the last update; torch has no error type for it."""
    return type(error) is RuntimeError and "You can enable unused parameter detection" in str(error)


CUDA_ERROR_MEMORY_ALLOCATION = 2


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device or the host is out of memory; torch has no error type for the host.

    Source:
        cudaErrorMemoryAllocation in the CUDA Runtime API; torch/csrc/Exceptions.h (torch.AcceleratorError.error_code);
        c10/core/impl/alloc_cpu.cpp.
    """
    if type(error) is RuntimeError:
        return "DefaultCPUAllocator: " in str(error)
    is_device_error = getattr(error, "error_code", None) == CUDA_ERROR_MEMORY_ALLOCATION
    return isinstance(error, torch.OutOfMemoryError) or is_device_error


def default_store() -> Store:
    """Return the store of the process group that exists, whoever has made it."""
    store: Store = dist.distributed_c10d._get_default_store()
    return store


NORM_BASES: tuple[type[nn.Module], ...] = (getattr(batchnorm, "_NormBase", batchnorm.BatchNorm2d),)
"""The base of torch's layers of batch and instance normalization, and of those of other packages."""


def non_persistent_buffers(module: nn.Module) -> set[str]:
    """Return the names of a module's buffers that its state dict leaves out."""
    return getattr(module, "_non_persistent_buffers_set", set())


def inner_schedules(schedule: Any) -> list[Any]:
    """Return the schedules of which torch's SequentialLR and ChainedScheduler consist; empty for others."""
    return list(getattr(schedule, "_schedulers", ()))


@contextmanager
def unseen_as_worker() -> Iterator[None]:
    """Return a context in which `get_worker_info` returns None, so that a dataset does not split itself by worker."""
    worker = data_internals.worker
    info, worker._worker_info = worker._worker_info, None
    try:
        yield
    finally:
        worker._worker_info = info


def end_workers(loader: Any) -> None:
    """End the persistent workers of a DataLoader; its next iteration starts others."""
    loader._iterator = None
