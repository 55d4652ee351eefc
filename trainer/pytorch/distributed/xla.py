"""TPU cores through torch_xla: one process for each core records the step and then launches it.

The lines of the step compute nothing: torch_xla records the operations, and ``torch_xla.sync()`` at the end of the
update compiles them, once for each shape, and launches them. Reading a number earlier waits for all of them. Therefore
flags are exchanged only if a callback may set them, and a stop signal is read one update late.

Tests ran one core on torch_xla's CPU device, several cores on a simulation, and nothing on a TPU: see
docs/explanation/tpu.md.

Source:
    torch_xla 2.9: https://docs.pytorch.org/xla/release/r2.9/learn/pytorch-on-xla-devices.html, and in
    github.com/pytorch/xla at v2.9.0 torch_xla/core/xla_model.py (reduce_gradients, optimizer_step, rendezvous,
    broadcast_master_param), torch_xla/runtime.py, torch_xla/torch_xla.py (sync, launch).
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trackside.callbacks.state import DECISIONS, TrainerControl
from trackside.trainer.distributed.launcher import ProcessRank

from ...distributed.collectives import Call
from ...distributed.control_sync import SIGNAL_COUNTS, signal_in
from .._torch_util import NULL_CONTEXT, unwrap
from ..availability import check_torch_xla
from ..host_copy import copied
from .strategy import DistributedStrategy, SingleProcess


def detect_core() -> ProcessRank:
    """Return the rank of this process's core; under torchrun, join the others first.

    The order of torch_xla's cores may differ from torchrun's ranks, so that only torch_xla's order is used.

    Raises:
        UnsupportedError: If torch_xla is not installed, or built for another torch.
    """
    runtime = _module("torch_xla.runtime")
    if dist.is_torchelastic_launched() and not dist.is_initialized():
        _module("torch_xla.distributed.xla_backend")  # registers the backend and the rendezvous
        dist.init_process_group("xla", init_method="xla://")
    return ProcessRank(runtime.global_ordinal(), runtime.world_size(), runtime.local_ordinal(), "torch_xla")


def device_of_core() -> torch.device:
    """Return the device of this process.

    Raises:
        UnsupportedError: If torch_xla is not installed, or built for another torch.
    """
    device: torch.device = _module("torch_xla").device()
    return device


def _module(name: str) -> Any:
    check_torch_xla()  # with another torch, the import would end the process
    return importlib.import_module(name)


class _XLADevice(DistributedStrategy):
    """Shared base of the single-core and the multi-core strategy.

    Args:
        args: Read for debug, whose tpu_metrics_debug prints the report of torch_xla when training or evaluation ends.
    """

    must_copy = True

    def __init__(self, args: Any, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(rank, world_size)
        self._xla = _module("torch_xla")
        self._model = _module("torch_xla.core.xla_model")
        self._wants_report = "tpu_metrics_debug" in args.debug
        self._depth = 0

    @contextmanager
    def propagate_errors(self) -> Iterator[None]:
        """Return a context that prints the report of torch_xla at its end, if ``args`` request it."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._wants_report and self._depth == 0 and self.rank == 0:
                print(_module("torch_xla.debug.metrics").metrics_report(), flush=True)

    def move(self, model: nn.Module, device: torch.device) -> None:
        """Move the model; parameters are swapped in place, so that tied ones stay tied and optimizers keep them.

        Source:
            https://docs.pytorch.org/docs/stable/future_mod.html
        """
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            model.to(device)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    def full_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return all weights on the host; tied ones share their copy."""
        self.end_step()
        weights: dict[str, Tensor] = copied(unwrap(model).state_dict(keep_vars=True))
        return weights

    def end_step(self) -> None:
        """Launch the recorded operations, without waiting for them."""
        self._xla.sync()

    def seed(self, seed: int) -> None:
        """Seed the device's random number generator."""
        self._model.set_rng_state(seed)

    def random_state(self) -> dict[str, Any]:
        """Return the state of the device's random number generator, an integer."""
        return {"xla": self._model.get_rng_state()}

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `random_state` returned; a checkpoint from another device has none."""
        if "xla" in state:
            self._model.set_rng_state(state["xla"])


class XLACore(_XLADevice, SingleProcess):
    """The only core."""

    def sync_control(
        self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False
    ) -> str | None:
        """Launch the step after an update; return ``stop_signal``."""
        if after_update:
            self.end_step()
        return stop_signal


class XLAMultiCore(_XLADevice):
    """One core of several.

    In every update the cores exchange the gradients, and one small tensor: the divisor of the loss, and the stop
    signals. All cores must record the same step, or they wait for each other forever.

    Args:
        args: Read for place and debug.
        device: The device of this process.
    """

    def __init__(self, args: Any, device: torch.device) -> None:
        super().__init__(args, args.place.rank, args.place.world_size)
        self._device = device
        self._signal: str | None = None
        self._signals: tuple[Tensor | None, Tensor | None] = (None, None)
        self._must_sync, self._may_skip = True, False

    # -- the model ------------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model with the first core's parameters and buffers."""
        self._model.broadcast_master_param(model)
        return model

    def grad_sync(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context that averages the gradients after the last micro-batch of an update."""
        return self._averaging(model) if is_last else NULL_CONTEXT

    @contextmanager
    def _averaging(self, model: nn.Module) -> Iterator[None]:
        """Return a context that reduces the gradients as ``xm.optimizer_step`` does, but before clipping."""
        yield
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        self._model.all_reduce(self._model.REDUCE_SUM, gradients, scale=1.0 / self.world_size)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every core the buffers of the first core."""
        if buffers := list(model.buffers()):
            self._model.collective_broadcast(buffers)

    # -- numbers and objects --------------------------------------------------------------------------------------

    def all_reduce(self, value: Any) -> Any:
        """Return the sum of ``value`` over all cores, as a tensor on the host. Waits for the device."""
        own = torch.as_tensor(value).to("cpu", torch.float64)
        return torch.stack(self.collectives.gather("a sum over all cores", own)).sum(0)

    def all_reduce_async(self, value: Any) -> Callable[[], Any]:
        """Sum ``value`` on the device, together with the stop signals."""
        own = torch.as_tensor(value, dtype=torch.float32, device=self._device).reshape(1)
        signals = torch.tensor(SIGNAL_COUNTS[self._signal], device=self._device)
        total = self._model.all_reduce(self._model.REDUCE_SUM, torch.cat([own, signals]))
        self._signals = (self._signals[1], total[1:])
        return lambda: total[0]

    def sync_control(
        self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False
    ) -> str | None:
        """Apply the flags of the first core; return the stop signal of any core.

        After an update, flags are exchanged only if a core needed it at the last exchange; a signal is then read from
        the sum of the previous update, which the device has finished.
        """
        self._signal = stop_signal
        if after_update:
            self.end_step()
            if not self._must_sync:
                return self._heard()
        own = (
            [getattr(control, name) for name in DECISIONS],
            control.stop_reason,
            stop_signal,
            self.needs_control_sync(),
            self.steers_update(),
        )
        told = self.collectives.gather("the agreement on flags", own)
        decisions, reason, *_ = told[0]
        for name, value in zip(DECISIONS, decisions, strict=True):
            setattr(control, name, value)
        if control.should_training_stop:
            control.stop_reason = reason
        self._must_sync, self._may_skip = any(each[3] for each in told), any(each[4] for each in told)
        return next((signal for _, _, signal, *_ in told if signal is not None), None)

    def may_skip(self, is_steered: bool) -> bool:
        """Return whether any core may skip an update, as the last agreement says."""
        return self._may_skip

    def _heard(self) -> str | None:
        late = self._signals[0]
        return None if late is None else signal_in(late.tolist())

    def _all_gather(self, call: Call) -> list[Call]:
        return [pickle.loads(part) for part in self._model.rendezvous("trackside", pickle.dumps(call))]
