"""DistributedDataParallel: every process holds the whole model, and gradients are averaged while they are computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trackside.callbacks.errors import ArgumentError, RankError

from .carrier import Carrier
from .strategy import NOTHING, SIGNALS, Group, Roots, unwrap

logger = logging.getLogger("trackside.trainer")


class Replicated(Group):
    """One process of several that hold the same model.

    The numbers of an update travel with its gradients (see `Carrier`) where they can, and else as in `Group`.

    Args:
        args: The training arguments: backend, timeout and DDP's options.
        device: The device of this process.
    """

    def __init__(self, args: Any, device: torch.device) -> None:
        super().__init__(args, device)
        self._is_first_update = False
        self._is_last = False
        self._carrier: Carrier | None = None

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Watch over the other processes; say in the words of ``args`` what DDP says in its own.

        Raises:
            ArgumentError: If a parameter that had a gradient in the first update gets none in a later one.
        """
        with super().guarded():
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
        DDP would fail, or else for which it would look for ever, and whether numbers can travel with the gradients.
        """
        unused = bool(self._args.ddp_find_unused_parameters)
        uses_amp = self._args.fp16 and self._args.fp16_backend == "apex"  # its gradients are copies of DDP's
        self._is_first_update = not unused and not uses_amp
        self._carrier = None
        if self._is_first_update and self._device.type == "cpu":
            dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
            dtype = torch.float64 if torch.float64 in dtypes else torch.float32
            self._carrier = Carrier(len(SIGNALS) + 1, dtype, self.world_size)
        return self._in_ddp(model, find_unused_parameters=unused)

    def _in_ddp(self, model: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
        args = self._args
        options = {"bucket_cap_mb": args.ddp_bucket_cap_mb, "broadcast_buffers": args.ddp_broadcast_buffers}
        with self._carrier.aboard(model) if self._carrier else NOTHING:
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
        travelled = self._carrier is not None and self._carrier.parameter.grad is not None
        *numbers, carried = self.sum([*(float(p.grad is not None) for _, p in trainable), float(travelled)]).tolist()
        for (_, parameter), number in zip(trainable, numbers, strict=True):
            if number:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad.div_(self.world_size))
        unused = [name for (name, _), number in zip(trainable, numbers, strict=True) if number < self.world_size]
        looks_for_unused = bool(unused) and self._args.ddp_find_unused_parameters is None
        if looks_for_unused:
            self._tell_of_unused(unused)
        loses_carrier = self._carrier is not None and (looks_for_unused or carried < self.world_size)
        if self._carrier is not None:
            self._carrier.parameter.grad = None
        if loses_carrier:
            self._carrier = None
        if not looks_for_unused and not loses_carrier:
            return model
        return self._in_ddp(inner, find_unused_parameters=looks_for_unused)

    def _tell_of_unused(self, names: list[str]) -> None:
        logger.log(
            logging.WARNING if self.rank == 0 else logging.DEBUG,
            "no gradient reached %s, so DDP looks for such parameters in every update (ddp_find_unused_parameters=True "
            "says so from the start; requires_grad_(False) spares it)",
            ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
        )

    def syncing(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Do as DDP's no_sync for all but the last micro-batch, and for the whole first update; see `wrap`."""
        self._is_last = is_last
        if is_last and self._carrier is not None:
            self._carrier.begin()
        _set_sync(model, is_last and not self._is_first_update)
        return NOTHING

    def go_along(self) -> Roots:
        """Return the carrier and its numbers if gradients are exchanged after this backward pass."""
        return self._carrier.leave() if self._carrier is not None and self._is_last else ((), ())

    def _sum_numbers(self, numbers: list[float]) -> Callable[[], float]:
        if self._carrier is None or self._is_first_update:
            return super()._sum_numbers(numbers)
        carrier = self._carrier
        carrier.load(numbers)

        def wait() -> float:
            if carrier.has_left:
                return self._note(carrier.unload())
            return self._take_note(*self._exchange(numbers))  # an override went backward in a way of its own

        return wait


def _set_sync(model: nn.Module, value: bool) -> None:
    """Set what DDP's no_sync sets, past nn.Module, which would first look whether it is a parameter or a module."""
    object.__setattr__(model, "require_backward_grad_sync", value)
