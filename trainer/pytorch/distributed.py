"""The processes of a run: alone, or one of several that torchrun (or SLURM, or MPI) started.

`Alone` and `Group` have the same methods; nothing outside this file asks how many processes there are in order to
decide what to call.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import nn

from ...callbacks.state import TrainerControl

FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
SIGNALS = (None, "SIGINT", "SIGTERM")


class Alone:
    """The only process."""

    rank = 0
    world_size = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as the step is to call it."""
        return model

    def syncing(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are exchanged only after the last micro-batch of an update."""
        return nullcontext()

    def sum(self, value: Any) -> Any:
        """Return the sum of ``value``, a number or a tensor, over all processes."""
        return value

    def agree(self, control: TrainerControl, stop_signal: str | None) -> str | None:
        """Give every process the flags of the first; return the stop signal that any process got."""
        return stop_signal

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks."""
        return [value]

    def barrier(self) -> None:
        """Wait until every process is here."""


class Group(Alone):
    """One process of several, joined through torch.distributed.

    Args:
        args: The training arguments: backend, timeout and DDP's options.
        device: The device of this process.
    """

    def __init__(self, args: Any, device: torch.device) -> None:
        import torch.distributed as dist

        self._dist = dist
        self._args = args
        self._device = device
        if not dist.is_initialized():
            backend = args.ddp_backend or ("nccl" if device.type == "cuda" else "gloo")
            dist.init_process_group(
                backend,
                rank=args.process_index,
                world_size=args.world_size,
                timeout=timedelta(seconds=args.ddp_timeout),
            )
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in DistributedDataParallel."""
        args = self._args
        options = {
            "bucket_cap_mb": args.ddp_bucket_cap_mb,
            "broadcast_buffers": args.ddp_broadcast_buffers,
            "find_unused_parameters": args.ddp_find_unused_parameters,
        }
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[self._device.index] if self._device.type == "cuda" else None,
            **{name: value for name, value in options.items() if value is not None},
        )

    def syncing(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return DDP's no_sync for all but the last micro-batch."""
        return nullcontext() if is_last else model.no_sync()  # type: ignore[operator]

    def sum(self, value: Any) -> Any:
        """Return the sum of ``value`` over all processes, as a tensor."""
        total = torch.as_tensor(value, dtype=torch.float64, device=self._device).clone()
        self._dist.all_reduce(total)
        return total

    def agree(self, control: TrainerControl, stop_signal: str | None) -> str | None:
        """Take over the flags of the first process, and any process's stop signal, in one small reduction."""
        own = [int(getattr(control, name)) if self.rank == 0 else 0 for name in FLAGS]
        flags = torch.tensor([*own, SIGNALS.index(stop_signal)], dtype=torch.int32, device=self._device)
        self._dist.all_reduce(flags, op=self._dist.ReduceOp.MAX)
        *decided, number = flags.tolist()
        for name, value in zip(FLAGS, decided, strict=True):
            setattr(control, name, bool(value))
        return SIGNALS[number]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks."""
        gathered: list[Any] = [None] * self.world_size
        self._dist.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Wait until every process is here."""
        self._dist.barrier()


def processes_of(args: Any, device: torch.device) -> Alone:
    """Return the processes that ``args`` describes."""
    return Group(args, device) if args.world_size > 1 else Alone()


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own model inside DDP or DataParallel."""
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return model


def first_tensor(values: Sequence[Any]) -> torch.Tensor | None:
    """Return the first tensor among ``values``, or None."""
    return next((value for value in values if isinstance(value, torch.Tensor)), None)
