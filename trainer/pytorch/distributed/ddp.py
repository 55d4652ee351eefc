"""DistributedDataParallel: every rank holds the full model, and gradients are averaged while they are computed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trackside.callbacks.errors import ArgumentError, RankError

from .._torch_util import NULL_CONTEXT, unwrap
from .strategy import MultiProcess

logger = logging.getLogger("trackside.trainer")


class DDP(MultiProcess):
    """One process of several that hold the same model.

    Args:
        args: The training arguments: backend, timeout and DDP's options.
        device: The device of this process.
    """

    def __init__(self, args: Any, device: torch.device) -> None:
        super().__init__(args, device)
        self._is_first_update = False

    @contextmanager
    def propagate_errors(self) -> Iterator[None]:
        """Watch over the other ranks; translate an error of DDP that an argument avoids.

        Raises:
            ArgumentError: If a parameter that had a gradient in the first update gets none in a later one.
        """
        with super().propagate_errors():
            try:
                yield
            except RuntimeError as error:
                if isinstance(error, RankError) or "You can enable unused parameter detection" not in str(error):
                    raise
                allowed = "True for a model of which some parameters get a gradient in some updates only"
                raise ArgumentError(
                    "ddp_find_unused_parameters", self._args.ddp_find_unused_parameters, allowed
                ) from error

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in DistributedDataParallel.

        The gradients of the first update are exchanged without DDP. That finds out which parameters get none, on which
        DDP would fail, or else for which it would look in every update.
        """
        unused = bool(self._args.ddp_find_unused_parameters)
        uses_amp = self._args.fp16 and self._args.fp16_backend == "apex"  # its gradients are copies of DDP's
        self._is_first_update = not unused and not uses_amp
        return self._in_ddp(model, find_unused_parameters=unused)

    def _in_ddp(self, model: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
        args = self._args
        options = {"bucket_cap_mb": args.ddp_bucket_cap_mb, "broadcast_buffers": args.ddp_broadcast_buffers}
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[self._device.index] if self._device.type == "cuda" else None,
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=True,
            **{name: value for name, value in options.items() if value is not None},
        )

    def complete_first_gradients(self, model: nn.Module) -> nn.Module:
        """Average the gradients of the first update; return a DDP that suits what they tell."""
        if not self._is_first_update:
            return model
        self._is_first_update = False
        _set_sync(model, True)
        inner = unwrap(model)
        trainable = [(name, parameter) for name, parameter in inner.named_parameters() if parameter.requires_grad]
        numbers = self.all_reduce([float(parameter.grad is not None) for _, parameter in trainable]).tolist()
        for (_, parameter), number in zip(trainable, numbers, strict=True):
            if number:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad.div_(self.world_size))
        unused = [name for (name, _), number in zip(trainable, numbers, strict=True) if number < self.world_size]
        if not unused or self._args.ddp_find_unused_parameters is not None:
            return model
        self._tell_of_unused(unused)
        return self._in_ddp(inner, find_unused_parameters=True)

    def _tell_of_unused(self, names: list[str]) -> None:
        logger.log(
            logging.WARNING if self.rank == 0 else logging.DEBUG,
            "no gradient reached %s, so DDP looks for such parameters in every update (ddp_find_unused_parameters=True "
            "says so from the start; requires_grad_(False) spares it)",
            ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
        )

    def grad_sync(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Do as no_sync of DDP for all but the last micro-batch, and for the entire first update; see `wrap`."""
        _set_sync(model, is_last and not self._is_first_update)
        return NULL_CONTEXT


def _set_sync(model: nn.Module, value: bool) -> None:
    """Set what no_sync of DDP sets, past nn.Module, which would first look whether it is a parameter or a module."""
    object.__setattr__(model, "require_backward_grad_sync", value)
