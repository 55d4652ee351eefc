"""The processes of a run: alone, or one of several that torchrun (or SLURM, or MPI) started.

`Alone` and `Group` have the same methods; nothing outside this file asks how many processes there are in order to
decide what to call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trackside.callbacks.state import TrainerControl

from .rendezvous import join
from .watchdog import Watchdog

logger = logging.getLogger("trackside.trainer")

FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")
SIGNALS = (None, "SIGINT", "SIGTERM")
COUNTED = {signal: [float(signal == name) for name in SIGNALS[1:]] for signal in SIGNALS}
"""A stop signal in numbers that can be summed over the processes."""

NOTHING = nullcontext()
"""A context for what needs none, made once."""


class Alone:
    """The only process.

    Attributes:
        doing: What the process is about, for others to read where it is missing; see `Watchdog`.
        may_steer: Says whether callbacks may set flags at the end of any update; see `agree`.
    """

    rank = 0
    world_size = 1
    is_sharded = False
    """Whether the model is shared out among the processes; see `fsdp`."""
    must_copy = False
    """Whether tensors are copied to the host before they are written; see `xla`."""

    def __init__(self) -> None:
        self.doing: Callable[[], str] = str
        self.may_steer: Callable[[], bool] = bool

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all, each with the error that came first."""
        return NOTHING

    # -- the model ------------------------------------------------------------------------------------------------

    def move(self, model: nn.Module, device: torch.device) -> None:
        """Move the model to ``device``; its parameters stay the objects that they are."""
        model.to(device)

    def shard(self, model: nn.Module) -> nn.Module:
        """Return the model as the optimizer is to be made for it."""
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model as the step is to call it."""
        return model

    def complete_first_gradients(self, model: nn.Module) -> nn.Module:
        """Exchange the gradients of the first update; return the model as later steps are to call it."""
        return model

    def syncing(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Return a context in which gradients are exchanged only after the last micro-batch of an update."""
        return NOTHING

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of the first: running statistics, which each has gathered by itself."""

    def whole(self, tensor: Any) -> Any:
        """Return a tensor that may be shared out as a whole one."""
        return tensor

    def whole_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return all weights where no process holds them all; None where each does."""
        return None

    # -- numbers and objects --------------------------------------------------------------------------------------

    def sum(self, value: Any) -> Any:
        """Return the sum of ``value``, a number or a tensor, over all processes."""
        return value

    def sum_meanwhile(self, value: Any) -> Callable[[], Any]:
        """Begin to sum ``value`` over all processes; return what waits for the sum. Once in every update."""
        return lambda: value

    def agree(self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first; return the stop signal that any process got.

        Args:
            after_update: Whether this is the end of an update, where there is nothing to agree on as long as no
                process has a callback that may steer there.
        """
        return stop_signal

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks."""
        return [value]

    def barrier(self) -> None:
        """Wait until every process is here."""

    # -- a device that only records --------------------------------------------------------------------------------

    def end_step(self) -> None:
        """Launch what was recorded, on a device that records first; see `xla`. `agree` does it after an update."""

    def seed(self, seed: int) -> None:
        """Seed the device's own random number generator, where torch's seed does not reach it."""

    def random_state(self) -> dict[str, Any]:
        """Return the state of the device's own random number generator, where torch's does not hold it."""
        return {}

    def set_random_state(self, state: dict[str, Any]) -> None:
        """Take back what `random_state` gave, among other states."""


class Group(Alone):
    """One process of several, joined through torch.distributed; a subclass knows what each holds of the model.

    In every update all processes exchange a few numbers: the sum that the loss is divided by, whether anybody's
    callbacks may steer, and who got a stop signal. They are on their way while the last micro-batch goes backward.

    Args:
        args: The training arguments: backend, timeout and DDP's options.
        device: The device of this process.
    """

    _broken: ClassVar[Any] = None
    """The process group that an error has ended: the processes may be anywhere in it, so all trainers meet anew."""

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
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.watchdog = Watchdog(store, self.rank, self.world_size)
        # small messages go from host to host, so that nothing waits for a GPU because of them
        is_on_host = "gloo" in dist.get_backend()
        self._hosts = dist.group.WORLD if is_on_host else dist.new_group(backend="gloo")
        self._signal: str | None = None
        self._heard: str | None = None
        self._must_agree = True
        self._told_reason = False

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Watch over the other processes; make an error here known to them, and theirs the error here.

        Raises:
            RankError: If another process failed first, is gone, or did not come.
        """
        if self._depth == 0:
            self._begin_watch()
        self._depth += 1
        try:
            yield
        except BaseException as error:
            Group._broken = self._world
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
        self._must_agree, self._told_reason, self._heard = True, False, None
        self.watchdog.doing = self.doing
        self.watchdog.start()

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of the first."""
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    # -- numbers and objects --------------------------------------------------------------------------------------

    def sum(self, value: Any) -> Any:
        """Return the sum of ``value`` over all processes, as a tensor."""
        total = torch.as_tensor(value, dtype=torch.float64, device=self._device).clone()
        with self._named("a sum over all processes"):
            dist.all_reduce(total)
        return total

    def sum_meanwhile(self, value: Any) -> Callable[[], Any]:
        """Begin to sum ``value``, together with what the processes must know of each other at the end of the update."""
        own = [float(self.may_steer()), *COUNTED[self._signal]]
        if isinstance(value, Tensor) and value.device.type != "cpu":
            total = value.detach().to(torch.float64, copy=True)
            on_device = dist.all_reduce(total, async_op=True)
            numbers_and_work = self._exchange([0.0, *own])
            return lambda: (self._take_note(*numbers_and_work), on_device.wait(), total)[2]
        return partial(self._take_note, *self._exchange([float(value), *own]))

    def _exchange(self, numbers: list[float]) -> tuple[Tensor, Any]:
        tensor = torch.tensor(numbers, dtype=torch.float64)
        return tensor, dist.all_reduce(tensor, group=self._hosts, async_op=True)

    def _take_note(self, numbers: Tensor, work: Any) -> float:
        with self._named("the sum of the loss's weights"):
            work.wait()
        total, steering, *signalled = numbers.tolist()
        self._must_agree = steering > 0
        self._heard = signal_in(signalled)
        return float(total)

    def agree(self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Take over the flags of the first process, and any process's stop signal.

        At the end of an update this costs a reduction only if a process has callbacks that may steer there; a signal
        is then heard of with the next update's sum.
        """
        self._signal = stop_signal
        if after_update and not self._must_agree:
            return self._heard
        own = [int(getattr(control, name)) if self.rank == 0 else 0 for name in FLAGS]
        flags = torch.tensor([*own, SIGNALS.index(stop_signal)], dtype=torch.int32)
        with self._named("the agreement on flags"):
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._hosts)
        *decided, number = flags.tolist()
        for name, value in zip(FLAGS, decided, strict=True):
            setattr(control, name, bool(value))
        self._share_reason(control)
        return SIGNALS[number] or self._heard

    def _share_reason(self, control: TrainerControl) -> None:
        if control.should_training_stop and not self._told_reason:
            self._told_reason = True
            control.stop_reason = self.gather_objects(control.stop_reason)[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks."""
        gathered: list[Any] = [None] * self.world_size
        with self._named("a gathering of objects"):
            dist.all_gather_object(gathered, value, group=self._hosts)
        return gathered

    def barrier(self) -> None:
        """Wait until every process is here."""
        with self._named("a barrier"):
            dist.barrier(group=self._hosts)

    @contextmanager
    def _named(self, collective: str) -> Iterator[None]:
        """Let an error in a collective, and the others, know which one it is; what has no name are the gradients."""
        self.watchdog.waits_in = collective
        yield
        self.watchdog.waits_in = ""


def processes_of(args: Any, device: torch.device) -> Alone:
    """Return the processes that ``args`` describes."""
    if args.uses_xla:
        from .xla import Core, Cores

        return Cores(args, device) if args.world_size > 1 else Core(args)
    if args.fsdp:
        from .fsdp import Sharded  # costs half a second to import

        return Sharded(args, device)
    if args.world_size > 1:
        from .ddp import Replicated

        return Replicated(args, device)
    return Alone()


def signal_in(sums: Sequence[float]) -> str | None:
    """Return a stop signal that any process got, of the sums of what `COUNTED` has."""
    return next((name for name, count in zip(SIGNALS[1:], sums, strict=True) if count), None)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own model inside DDP or DataParallel."""
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return model
