"""The PyTorch backend of the loop: what a batch, an update and a snapshot are here.

The methods stand in the order of `trackside.trainer.loop.Backend`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from ..base_trainer import BaseTrainer
from ..checkpointing.manager import Notes
from ..distributed.collectives import Collectives
from ..evaluation.output_collector import map_nested
from ..memory_metrics import DeviceMemory
from ..progress import Progress
from . import snapshot
from .arguments import TrainingArguments
from .checkpoint import Keeping
from .cuda_step_timer import step_timer_of
from .data import factory as data
from .distributed.factory import strategy_for
from .distributed.rendezvous import job_store
from .evaluation import Evaluating, TrainBatch
from .loss import LossWindow
from .nonfinite import watched
from .oom_retry import retry_smaller
from .precision.factory import DTYPES, precision_for, set_tf32
from .seeding import set_seed


class TorchBackend(Evaluating, Keeping, BaseTrainer):
    """Fills in what the loop and the evaluation need."""

    args: TrainingArguments
    get_train_dataloader: Callable[..., Iterable[Any]]
    create_optimizer_and_scheduler: Callable[..., None]
    training_step: Callable[..., Tensor]
    floating_point_ops: Callable[..., int]
    _own_optimizers: tuple[Any, Any]

    def _set_up_backend(self) -> None:
        args = self.args
        self.processes = strategy_for(args, args.device)
        self.processes.describe_progress = lambda: f"step {self.state.global_step + 1}"
        self.processes.needs_control_sync = self.dispatcher.may_steer
        self.step_timer = step_timer_of(args.device)
        self._set_up_step()

    def _set_up_step(self) -> None:
        args = self.args
        self._is_on_host = args.device.type == "cpu"
        self._choose_precision()
        self.model_wrapped: nn.Module = self.model
        self._window = LossWindow(
            self.processes,
            args.device,
            args.global_micro_batch_size * args.gradient_accumulation_steps / args.world_size,
            replace_non_finite=args.logging_nan_inf_filter,
        )
        self._grad_norm: Tensor | None = None
        self._is_first_update = True
        self._eval_dtype = DTYPES["bf16"] if args.bf16_full_eval else DTYPES["fp16"] if args.fp16_full_eval else None
        self._flos = 0
        self._splits = 1
        set_tf32(args.tf32)
        self._know_model()

    def _choose_precision(self) -> None:
        self.precision = precision_for(self.args, self.args.device)
        if "underflow_overflow" in self.args.debug:
            self.precision = watched(self.precision, lambda: self.model, self.processes.describe_progress)

    # -- set up ---------------------------------------------------------------------------------------------------

    def prepare_data(self) -> int | None:
        """Build the training loader; return its batches of one epoch, if known."""
        loader = self._train_loader = self.get_train_dataloader()
        if loader is None or hasattr(loader, "__next__"):
            found = "None" if loader is None else "an iterator, which can be read only once"
            raise TracksideTypeError(
                f"get_train_dataloader() returned {found}; return a DataLoader, or another object whose __iter__ "
                "starts anew"
            )
        self._update_context(train_dataloader=loader)
        batches = data.batches_per_epoch(loader, self.processes.world_size)
        check_same_data(self.gather_objects((data.num_examples(loader), batches)))
        return batches

    def prepare_model(self, max_steps: int) -> None:
        """Place and wrap the model, create optimizer and schedule."""
        args = self.args
        self.processes.move(self.model, args.device)
        self._know_model()
        if args.gradient_checkpointing:
            enable_checkpointing(self.model, args.gradient_checkpointing_kwargs)
        if args.torch_compile and getattr(self.model, "_compiled_call_impl", None) is None:
            self.model.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)
        self.model = self.processes.shard(self.model)
        self.optimizer, self.lr_scheduler = self._own_optimizers
        self.create_optimizer_and_scheduler(max_steps)
        if self.optimizer is None:
            raise TracksideValueError(
                "create_optimizer_and_scheduler() made no optimizer: it sets self.optimizer, and self.lr_scheduler"
            )
        self._choose_precision()
        self.model, self.optimizer = self.precision.prepare(self.model, self.optimizer)
        self.model_wrapped = self.processes.wrap(self._parallel(self.model))
        self._is_first_update = True
        self.model_wrapped.train()
        self.optimizer.zero_grad()
        self._parameters = self.precision.parameters(self.optimizer)
        self._has_sparse = any(getattr(module, "sparse", False) is True for module in self.model.modules())
        self._window.take()
        self._update_context()

    def _parallel(self, model: nn.Module) -> nn.Module:
        return nn.DataParallel(model) if self.args.parallel == "dp" and self.args.n_gpu > 1 else model

    def restore(self, checkpoint: Path) -> Progress:
        """Take everything from a checkpoint but the state of the random number generators."""
        progress = super().restore(checkpoint)
        used = data.batches_used(self._train_loader, progress.epoch, progress.examples_in_epoch)
        progress.batches_in_epoch = progress.batches_in_epoch if used is None else used
        return progress

    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators: from the checkpoint, or afresh from ``args.seed`` and the rank."""
        path = None if checkpoint is None else checkpoint / snapshot.RNG_FILE.format(rank=self.processes.rank)
        if path is not None and path.exists():
            state = snapshot.read_torch(path)
            snapshot.set_random_state(state)
            self.processes.set_random_state(state)
            self._past = None if state.get("past") is None else self.place(state["past"])
        else:
            set_seed(self.args.seed + self.processes.rank)
            self.processes.seed(self.args.seed + self.processes.rank)

    # -- the epoch ------------------------------------------------------------------------------------------------

    def epoch_batches(self, epoch: int, skip_examples: int) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch for this process; the sampler knows its epoch when this returns."""
        skip = 0 if self.args.ignore_data_skip else skip_examples
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._past = None
        rank, world_size = self.processes.rank, self.processes.world_size
        batches = data.iterate_epoch(
            self._train_loader, seed=seed, epoch=epoch, skip_examples=skip, rank=rank, world_size=world_size
        )
        return self.step_timer.reading(TrainBatch(inputs, *counts) for inputs, counts in batches)

    def count_examples(self, window: Sequence[TrainBatch]) -> int:
        """Return the examples in a window, counted over all processes."""
        return sum(batch.examples_of_all for batch in window)

    # -- the update -----------------------------------------------------------------------------------------------

    def micro_step(self, batch: TrainBatch, index: int, count: int) -> None:
        """Take a micro-batch forward and backward."""
        if self.processes.is_sharded:  # the forward pass gathers weights
            self.step_timer.exchange()
        inputs = self.place(batch.inputs)
        self._window.begin(index, count)
        self._is_padding = batch.examples == 0
        self.precision.is_last_backward = index + 1 == count
        if self._counts_flos:
            self._flos += self.floating_point_ops(inputs)
        if isinstance(inputs, dict) and "input_ids" in inputs:
            self.state.num_input_tokens_seen += inputs["input_ids"].numel() * self.processes.world_size
        with self.processes.grad_sync(self.model_wrapped, index + 1 == count):
            if self.args.auto_find_batch_size:
                loss = retry_smaller(self, inputs)
            else:
                loss = self.training_step(self.model_wrapped, inputs)
        self._window.add(loss)

    def finish_gradients(self) -> Tensor:
        """Normalise, unscale and clip the gradients; return their norm before clipping, still on the device."""
        if self._is_first_update:
            self._is_first_update = False
            self.model_wrapped = self.processes.complete_first_gradients(self.model_wrapped)
        self.precision.unscale(self.optimizer)
        factor = self._window.close()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if isinstance(factor, Tensor) or factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        dense = gradients if not self._has_sparse else [g.coalesce().values() if g.is_sparse else g for g in gradients]
        norm = nn.utils.get_total_norm(dense)
        if self.args.max_grad_norm > 0:
            nn.utils.clip_grads_with_norm_(self._parameters, self.args.max_grad_norm, norm)
        self._grad_norm = self.processes.full_tensor(norm)
        return self._grad_norm

    def optimizer_step(self) -> bool:
        """Step optimizer and schedule; return whether the loss scaler held the step back."""
        skipped = self.precision.step(self.optimizer)
        if not skipped and self.lr_scheduler is not None and not self._follows_metric():
            self.lr_scheduler.step()
        return skipped

    def clear_gradients(self) -> None:
        """Forget the gradients: what torch's own zero_grad does, without its 10 microseconds of bookkeeping."""
        if self.precision.clear(self.optimizer):
            return
        if type(self.optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        for parameter in self._parameters:
            parameter.grad = None

    def fused_update(self, window: Sequence[Any]) -> bool:
        """Return False: in PyTorch the update goes piece by piece."""
        return False

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all, each with the error that came first."""
        return self.processes.propagate_errors()

    def agree(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first, and a stop signal that any of them got."""
        return self.processes.sync_control(self.control, stop_signal, after_update=after_update)

    def place(self, inputs: Any) -> Any:
        """Return a batch on the device of this process."""
        if self._is_on_host:
            return inputs
        device = self.args.device
        return map_nested(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, inputs)

    _prepare_inputs = place

    # -- records --------------------------------------------------------------------------------------------------

    def take_loss(self) -> float:
        """Return the sum of the losses of the updates since the last call. Waits for the device."""
        return self._window.take()

    def training_record(self) -> dict[str, float]:
        """Return gradient norm, learning rate and what callbacks add. Waits for the device."""
        record = {} if self._grad_norm is None else {"grad_norm": float(self._grad_norm)}
        record["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        return {**record, **self.dispatcher.logged_metrics()}

    def _follows_metric(self) -> bool:
        return isinstance(self.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)

    def store_flos(self) -> None:
        """Add the floating point operations since the last call to ``state.total_flos``."""
        if self._counts_flos:
            self.state.total_flos += float(self.processes.all_reduce(self._flos))
            self._flos = 0

    # -- the process ---------------------------------------------------------------------------------------------------

    @property
    def collectives(self) -> Collectives:
        """What the ranks gather, and decide together."""
        return self.processes.collectives

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks."""
        return self.collectives.gather("gather_objects()", value)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.collectives.barrier("barrier()")

    def job_notes(self) -> Notes | None:
        """Return the store of torchrun's agent, which outlives the processes that it starts again."""
        return job_store(self.args)

    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""
        set_seed(seed, deterministic=self.args.full_determinism)

    def device_memory(self, reset: bool) -> DeviceMemory | None:
        """Return the memory of the GPU, its peak set back first if ``reset``; None without one."""
        device = self.args.device
        if device.type != "cuda":
            return None
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return DeviceMemory(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))


def check_same_data(sizes: Sequence[tuple[int | None, int | None]]) -> None:
    """Raise if the processes have training data of different sizes; some would soon wait for others that are done.

    Args:
        sizes: The examples, and the batches of an epoch, that each process knows of.

    Raises:
        TracksideValueError: If they differ; the message has the first process that is not like rank 0.
    """
    other = next((rank for rank, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        words = "{1} batches an epoch, of {0} examples"
        first, odd = (words.format(*size).replace("None", "?") for size in (sizes[0], sizes[other]))
        raise TracksideValueError(
            f"train_dataset is not the same on all processes: rank 0 has {first}, rank {other} has {odd}. Give the "
            "whole of it to each; the trainer splits it evenly"
        )


def enable_checkpointing(model: Any, options: Any) -> None:
    """Have ``model`` compute activations again in the backward pass instead of keeping them.

    Raises:
        TracksideValueError: If it has no switch for that.
    """
    if not hasattr(model, "gradient_checkpointing_enable"):
        raise TracksideValueError(
            f"gradient_checkpointing=True needs a model with gradient_checkpointing_enable(); {type(model).__name__} "
            "has none. Use torch.utils.checkpoint inside the model instead"
        )
    model.gradient_checkpointing_enable(**({"gradient_checkpointing_kwargs": options} if options else {}))
