"""DistributedDataParallel: every rank holds the full model, and gradients are averaged during the backward pass.

On a CPU, where a small exchange competes with the computation, the numbers of an update are exchanged in the buckets of
the gradients: DDP is built with one additional parameter, whose gradient holds them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trackside.callbacks._util.display import first_names
from trackside.callbacks.errors import ArgumentError

from ...stop_signals import STOP_SIGNALS
from .._compat import is_unused_parameter_error, run_backward, set_gradient_sync
from .._torch_util import NULL_CONTEXT, unwrap
from .strategy import MultiProcess

logger: logging.Logger = logging.getLogger("trackside.trainer")

NAME = "_trackside_numbers"


class DDP(MultiProcess):
    """One process of several that hold the same model.

    Args:
        args: The training arguments: backend, timeout and DDP's options.
        device: The device of this process.
    """

    def __init__(self, args: Any, device: torch.device) -> None:
        super().__init__(args, device)
        self._is_first_update = False
        self._records_graph = False
        self._numbers: nn.Parameter | None = None

    @contextmanager
    def propagate_errors(self) -> Iterator[None]:
        """Watch over the other ranks; explain an error of DDP that an argument avoids.

        Raises:
            ArgumentError: If a parameter that had a gradient in the first update gets none in a later one.
        """
        with super().propagate_errors():
            try:
                yield
            except RuntimeError as error:
                if not is_unused_parameter_error(error):
                    raise
                allowed = "True for a model of which some parameters get a gradient in some updates only"
                raise ArgumentError(
                    "ddp_find_unused_parameters", self._args.ddp_find_unused_parameters, allowed
                ) from error

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in DistributedDataParallel.

        The gradients of the first update are exchanged without DDP. This finds the parameters without a gradient, on
        which DDP would fail, or for which it would search in every update. DDP records a static graph in the first
        update, which it can do only while it exchanges gradients.
        """
        unused = bool(self._args.ddp_find_unused_parameters)
        uses_amp = self._args.fp16 and self._args.fp16_backend == "apex"  # its gradients are copies of DDP's
        self._is_first_update = not (unused or uses_amp or self._args.ddp_static_graph)
        self._records_graph = bool(self._args.ddp_static_graph)
        return self._in_ddp(model, find_unused_parameters=unused)

    def _in_ddp(self, model: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
        args = self._args
        options = {
            "bucket_cap_mb": args.ddp_bucket_cap_mb,
            "broadcast_buffers": args.ddp_broadcast_buffers,
            "static_graph": args.ddp_static_graph,
        }
        takes_numbers = self._is_first_update and self._device.type == "cpu"
        self._numbers = _extra_parameter(model) if takes_numbers else None
        with _registered(model, self._numbers) if self._numbers is not None else NULL_CONTEXT:
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=[self._device.index] if self._device.type == "cuda" else None,
                find_unused_parameters=find_unused_parameters,
                gradient_as_bucket_view=True,
                **{name: value for name, value in options.items() if value is not None},
            )

    def complete_first_gradients(self, model: nn.Module) -> nn.Module:
        """Average the gradients of the first update; return a DDP configured from them."""
        self._records_graph = False
        if not self._is_first_update:
            return model
        self._is_first_update = False
        set_gradient_sync(model, True)
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
            first_names(names),
        )

    def grad_sync(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return DDP's no_sync for all but the last micro-batch, and for the entire first update; see `wrap`.

        To exchange gradients at each micro-batch gives the same sum: what was averaged already stays as it is.
        """
        set_gradient_sync(model, (is_last or self._records_graph) and not self._is_first_update)
        return NULL_CONTEXT

    def _sum_numbers(self, numbers: list[float]) -> Callable[[], float]:
        """Sum the numbers in the buckets of the gradients, for which DDP waits."""
        own = self._numbers
        if own is None or self._is_first_update:
            return super()._sum_numbers(numbers)
        own.grad = None
        # DDP takes the mean; integers stay exact
        run_backward(own, torch.tensor([self.world_size * number for number in numbers], dtype=own.dtype))
        sums: Any = own.grad
        if sums.untyped_storage().nbytes() == own.untyped_storage().nbytes():
            return super()._sum_numbers(numbers)  # not in a bucket: the gradients are already exchanged
        return lambda: self._take_numbers(sums)


def _extra_parameter(model: nn.Module) -> nn.Parameter:
    """Return a parameter for the numbers of an update, of a dtype that shares a bucket of ``model``."""
    is_double = any(parameter.dtype == torch.float64 for parameter in model.parameters() if parameter.requires_grad)
    return nn.Parameter(torch.zeros(3 + len(STOP_SIGNALS), dtype=torch.float64 if is_double else torch.float32))


@contextmanager
def _registered(model: nn.Module, parameter: nn.Parameter) -> Iterator[None]:
    """Return a context in which ``parameter`` is one of the parameters of ``model``."""
    model.register_parameter(NAME, parameter)
    try:
        yield
    finally:
        delattr(model, NAME)
