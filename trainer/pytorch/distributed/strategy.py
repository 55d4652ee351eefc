"""Distribution strategies of PyTorch for a single process and for several processes of a launcher.

Source:
    https://pytorch.org/docs/stable/distributed.html
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trackside.callbacks.state import TrainerControl

from ...distributed.collectives import Call, Collectives
from ...distributed.control_sync import SIGNAL_COUNTS, control_counts, signal_in, take_control
from ...distributed.strategy import BaseStrategy
from ...stop_signals import EvaluationStopped
from .._torch_util import NULL_CONTEXT, is_placed
from . import ending
from .object_exchange import ObjectExchange
from .rendezvous import join
from .watchdog import Watchdog


class DistributedStrategy(BaseStrategy):
    """The distribution of a run over processes.

    Attributes:
        must_copy: Whether tensors are copied to the host before they are written; see `xla`.
        describe_progress: Returns the current activity of the process, for errors on other ranks; see `Watchdog`.
        needs_control_sync: Returns whether callbacks may set flags at the end of an update; see `sync_control`.
        steers_update: Returns whether callbacks may skip an update; see `may_skip`.
    """

    must_copy = False

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(rank, world_size)
        self.describe_progress: Callable[[], str] = str
        self.needs_control_sync: Callable[[], bool] = bool
        self.steers_update: Callable[[], bool] = bool

    @abstractmethod
    def propagate_errors(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one rank ends all ranks with the first error."""

    # -- the model ------------------------------------------------------------------------------------------------

    def move(self, model: nn.Module, device: torch.device) -> None:
        """Move the model to ``device``, unless it is placed; its parameters remain the same objects."""
        if not is_placed(model):
            model.to(device)

    def shard(self, model: nn.Module) -> nn.Module:
        """Return the model in the form for which the optimizer is created."""
        return model

    @abstractmethod
    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in the form that the step calls."""

    def complete_first_gradients(self, model: nn.Module) -> nn.Module:
        """Exchange the gradients of the first update; return the model in the form that later steps call."""
        return model

    @abstractmethod
    def grad_sync(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are exchanged only after the last micro-batch of an update."""

    @abstractmethod
    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0, such as running statistics."""

    def full_tensor(self, tensor: Any) -> Any:
        """Return a possibly sharded tensor as a full one."""
        return tensor

    def full_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return all weights if no process holds them all; None if each process does."""
        return None

    # -- numbers and objects --------------------------------------------------------------------------------------

    @abstractmethod
    def all_reduce(self, value: Any) -> Any:
        """Return the sum of ``value``, a number or a tensor, over all ranks."""

    @abstractmethod
    def all_reduce_async(self, value: Any) -> Callable[[], Any]:
        """Begin to sum ``value`` over all ranks; return a function that waits for it. Called once an update."""

    # -- devices that record the step ------------------------------------------------------------------------------

    def end_step(self) -> None:
        """Launch the step that a device has recorded; see `xla`. `sync_control` does so after an update."""

    def seed(self, seed: int) -> None:
        """Seed the device's random number generator, if it is independent of torch's seed."""

    def random_state(self) -> dict[str, Any]:
        """Return the state of the device's random number generator, if it is not part of torch's state."""
        return {}

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `random_state` returned, among other states."""


class SingleProcess(DistributedStrategy):
    """The only process of a run."""

    def propagate_errors(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return NULL_CONTEXT

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def grad_sync(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return NULL_CONTEXT

    def share_buffers(self, model: nn.Module) -> None:
        """Do nothing."""

    def all_reduce(self, value: Any) -> Any:
        """Return ``value``."""
        return value

    def all_reduce_async(self, value: Any) -> Callable[[], Any]:
        """Return a function that returns ``value``."""
        return lambda: value

    def sync_control(
        self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False
    ) -> str | None:
        """Return ``stop_signal``."""
        return stop_signal

    def _all_gather(self, call: Call) -> list[Call]:
        return [call]


class MultiProcess(DistributedStrategy):
    """One process of several, joined through torch.distributed; a subclass defines the part of the model on each.

    In every update all ranks exchange a few numbers in one all-reduce, which runs during the backward pass of the last
    micro-batch: the divisor of the loss, whether a rank needs `sync_control` or may skip it, and the stop signals.

    Args:
        args: The training arguments: backend, timeout and the options of DDP.
        device: The device of this process.
    """

    _broken: ClassVar[Any] = None
    """The process group in which an error occurred: its ranks may be out of step, so that all trainers join again."""

    def __init__(self, args: Any, device: torch.device) -> None:
        super().__init__()
        self._args = args
        self._device = device
        self._depth = 0
        self._join()

    def _join(self) -> None:
        if self._broken is not None and dist.group.WORLD is self._broken:
            dist.destroy_process_group()
        store = join(self._args, self._device)
        self._world = dist.group.WORLD
        self.rank: int = dist.get_rank()
        self.world_size: int = dist.get_world_size()
        self.watchdog: Watchdog = Watchdog(store, self.rank, self.world_size, self._args.ddp_timeout)
        # small messages go from host to host, without waiting for a GPU
        is_on_host = "gloo" in dist.get_backend()
        self._hosts = dist.group.WORLD if is_on_host else dist.new_group(backend="gloo")
        self._objects = ObjectExchange(self._hosts, self.watchdog)
        self.collectives = Collectives(self._all_gather, self.rank, self.world_size, self._objects.to_first)
        self._signal: str | None = None
        self._heard: str | None = None
        self._must_sync, self._may_skip, self._told_reason = True, False, False

    @contextmanager
    def propagate_errors(self) -> Iterator[None]:
        """Return a context that watches the other ranks, reports an error here to them, and raises their errors here.

        Raises:
            RankError: If another rank failed first, ended, or did not join.
        """
        if self._depth == 0:
            self._begin_watch()
        self._depth += 1
        try:
            yield
        except EvaluationStopped:  # on every rank alike
            raise
        except BaseException as error:
            MultiProcess._broken = self._world
            ending.abandon(self._world)
            first = self.watchdog.explain(error)
            self.watchdog.report(first)
            if first is not error:
                raise first from error
            raise
        finally:
            self._depth -= 1
            if self._depth == 0:
                self.watchdog.stop()

    def _begin_watch(self) -> None:
        if self._world is self._broken or self._world is not dist.group.WORLD:
            self._join()
        self._must_sync, self._may_skip, self._told_reason, self._heard = True, True, False, None
        self.watchdog.describe_progress = self.describe_progress
        self.watchdog.start()

    def share_buffers(self, model: nn.Module) -> None:
        """Broadcast the buffers of rank 0."""
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    # -- numbers and objects --------------------------------------------------------------------------------------

    def all_reduce(self, value: Any) -> Any:
        """Return the sum of ``value`` over all ranks, as a tensor."""
        total = torch.as_tensor(value, dtype=torch.float64, device=self._device).clone()
        with self.watchdog.collective("a sum over all ranks"):
            dist.all_reduce(total)
        return total

    def all_reduce_async(self, value: Any) -> Callable[[], Any]:
        """Begin to sum ``value``, together with the state that the ranks exchange at the end of the update."""
        own = [float(self.needs_control_sync()), float(self.steers_update()), *SIGNAL_COUNTS[self._signal]]
        if isinstance(value, Tensor) and value.device.type != "cpu":
            total = value.detach().to(torch.float64, copy=True)
            on_device = dist.all_reduce(total, async_op=True)
            numbers_and_work = self._exchange([0.0, *own])
            return lambda: (self._wait_for_numbers(*numbers_and_work), on_device.wait(), total)[2]
        return self._sum_numbers([float(value), *own])

    def _sum_numbers(self, numbers: list[float]) -> Callable[[], float]:
        return partial(self._wait_for_numbers, *self._exchange(numbers))

    def _exchange(self, numbers: list[float]) -> tuple[Tensor, Any]:
        tensor = torch.tensor(numbers, dtype=torch.float64)
        return tensor, dist.all_reduce(tensor, group=self._hosts, async_op=True)

    def _wait_for_numbers(self, numbers: Tensor, work: Any) -> float:
        with self.watchdog.collective("the sum of the loss's weights"):
            work.wait()
        return self._take_numbers(numbers)

    def _take_numbers(self, numbers: Tensor) -> float:
        total, syncs, skips, *signals = numbers.tolist()
        self._must_sync, self._may_skip = syncs > 0, skips > 0
        self._heard = signal_in(signals)
        return float(total)

    def may_skip(self, is_steered: bool) -> bool:
        """Return whether any rank may, as this update's sum says."""
        return self._may_skip

    def sync_control(
        self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False
    ) -> str | None:
        """Apply the flags of rank 0; return the stop signal of any rank.

        At the end of an update this costs a reduction only if a rank needs it; otherwise a signal arrives with the next
        update's sum.
        """
        self._signal = stop_signal
        if after_update and not self._must_sync:
            return self._heard
        sums = torch.tensor(control_counts(control, stop_signal, self.rank), dtype=torch.float64)
        with self.watchdog.collective("the agreement on flags"):
            dist.all_reduce(sums, group=self._hosts)
        signal = take_control(control, sums.tolist())
        self._share_reason(control)
        return signal or self._heard

    def _share_reason(self, control: TrainerControl) -> None:
        if control.should_training_stop and not self._told_reason:
            self._told_reason = True
            control.stop_reason = self.collectives.gather("the reason to stop", control.stop_reason)[0]

    def _all_gather(self, call: Call) -> list[Call]:
        return self._objects.to_all(call)
