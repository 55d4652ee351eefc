"""The PyTorch engine: set-up of data and model, epochs, random numbers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import TracksideTypeError, TracksideValueError, UnsupportedError

from ..base_engine.engine import BaseEngine
from ..callback_setup import update_context
from ..checkpointing.position import tell_of_size
from ..distributed.launcher import JobStore
from ..measuring.descriptions import DataDescription, ModelDescription
from ..measuring.memory import DeviceMemory
from ..overrides import Overrides
from ..progress import Progress
from ..recovery import steers_update
from ..train_step import TrainBatch
from ._torch_util import unwrap
from .checkpoint import TorchCheckpoint
from .data import loader
from .data.factory import check_same_data
from .distributed.cuda_step_timer import step_timer_of
from .distributed.factory import strategy_for
from .distributed.rendezvous import job_store
from .distributed.strategy import DistributedStrategy
from .evaluation import TorchEvaluation
from .model_io import ModelIO
from .optim.belonging import check_optimizer, check_schedule, parameters_elsewhere
from .optim.closure import needs_closure
from .optim.factory import check_choice
from .optim.modes import OptimizerMode
from .optim.resuming import TorchMadeOptimizer
from .optim.several import as_one_optimizer
from .precision.base import Precision
from .precision.eval_mode import eval_mode
from .precision.factory import precision_for, set_tf32
from .precision.overflow_watch import watched
from .preparation.compiling import check_options_of_model, compile_model, enable_checkpointing
from .preparation.device_cache import giving_back
from .preparation.embedding_noise import add_noise
from .preparation.kernels import use_liger_kernels
from .preparation.own_randomness import tell_of_seeds
from .seeding import set_seed
from .train_step import TorchTrainStep
from .weights.average import TorchWeightAverage
from .weights.files import check_data
from .weights.sandbox import TorchSandbox


class TorchEngine(BaseEngine):
    """Runs a trainer's model with PyTorch.

    Args:
        trainer: Has model, arguments, optimizer and schedule; its documented methods are called, overridden or not.
        dispatcher: Receives the keyword arguments of callbacks.
        overrides: The documented methods that the trainer overrides.
    """

    strategy: DistributedStrategy
    train_step: TorchTrainStep
    evaluation: TorchEvaluation
    checkpoint: TorchCheckpoint
    model_io: ModelIO

    def __init__(self, trainer: Any, dispatcher: Dispatcher, overrides: Overrides) -> None:
        device = trainer.args.device
        strategy = strategy_for(trainer.args, device)
        super().__init__(trainer, dispatcher, overrides, strategy, step_timer_of(device))
        self.strategy.describe_progress = lambda: f"step {trainer.state.global_step + 1}"
        self.strategy.steers_update = partial(steers_update, dispatcher)
        self.strategy.needs_control_sync = lambda: (
            dispatcher.may_steer()
            or (dispatcher.wants_losses and self.train_step.first_non_finite(wait=False) is not None)
        )

    def _new_sandbox(self) -> TorchSandbox:
        return TorchSandbox(self)

    def _new_average(self) -> TorchWeightAverage:
        return TorchWeightAverage(self)

    def configure(self) -> None:
        """Create the parts that depend on the arguments."""
        set_tf32(self.trainer.args.tf32)
        self.train_loader: Any = None
        self._loaded: Any = None
        self.trainer.model_wrapped = self.trainer.model
        self.model_io = ModelIO(self.trainer, self.overrides)
        self.train_step = TorchTrainStep(self, self._make_precision())
        self.evaluation = TorchEvaluation(self)
        self.checkpoint = TorchCheckpoint(self)

    def _make_precision(self) -> Precision:
        precision = precision_for(self.trainer.args, self.trainer.args.device)
        if "underflow_overflow" in self.trainer.args.debug:
            return watched(precision, lambda: self.trainer.model, self.strategy.describe_progress)
        return precision

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _prepare_data(self, resized: tuple[int | None, int] | None) -> int | None:
        """Build the training loader; return its number of batches per epoch, if known."""
        self._build_loader()
        batches = self._agreed_batches()
        if resized is None:
            return batches
        tell_of_size(loader.num_examples(self.train_loader), resized[0], self.strategy.rank)
        if not loader.expect(self.train_loader, resized[0]):
            return resized[1]
        return loader.batches_per_epoch(self.train_loader, self.strategy.world_size)

    def _refresh_data(self, epoch: int) -> tuple[bool, int | None]:
        """Take another ``trainer.train_dataset``, or another length, into account."""
        is_other = self.trainer.train_dataset is not self._loaded
        if is_other:
            self._build_loader()
        is_resized = isinstance(self.train_loader, loader.EpochLoader) and self.train_loader.refresh()
        return is_other or is_resized, self._agreed_batches()

    def _build_loader(self) -> None:
        self._loaded = self.trainer.train_dataset
        self.train_loader = self.trainer.get_train_dataloader()
        if self.train_loader is None or hasattr(self.train_loader, "__next__"):
            found = "None" if self.train_loader is None else "an iterator, which can be read only once"
            raise TracksideTypeError(
                f"get_train_dataloader() returned {found}; return a DataLoader, or another object whose __iter__ "
                "starts anew"
            )
        update_context(self.trainer, self.dispatcher, train_dataloader=self.train_loader)

    def _agreed_batches(self) -> int | None:
        batches = loader.batches_per_epoch(self.train_loader, self.strategy.world_size)
        sizes = (loader.num_examples(self.train_loader), batches)
        check_same_data(self.strategy.collectives.gather("the sizes of train_dataset", sizes))
        return batches

    def prepare_model(self, max_steps: int) -> None:
        """Place and wrap the model; create the optimizer and the schedule."""
        trainer, args, strategy = self.trainer, self.trainer.args, self.strategy
        strategy.move(trainer.model, args.device)
        self.model_io.inspect()
        self._materialize()
        check_options_of_model(args)
        if args.gradient_checkpointing:
            enable_checkpointing(trainer.model, args.gradient_checkpointing_kwargs)
        if args.use_liger_kernel:
            use_liger_kernels(trainer.model, args.liger_kernel_config)
        if args.torch_compile and getattr(trainer.model, "_compiled_call_impl", None) is None:
            compile_model(trainer.model, args)
        trainer.model = strategy.shard(trainer.model)
        self.create_optimizer_and_scheduler(max_steps)
        self._check_optimizer()
        check_schedule(trainer.lr_scheduler, trainer.optimizer, max_steps)
        precision = self.train_step.precision = self._make_precision()
        trainer.model, trainer.optimizer = precision.prepare(trainer.model, trainer.optimizer)
        is_parallel = args.parallel == "dp" and args.n_gpu > 1
        trainer.model_wrapped = strategy.wrap(nn.DataParallel(trainer.model) if is_parallel else trainer.model)
        trainer.model_wrapped.train()
        trainer.optimizer.zero_grad()
        self._note_made(TorchMadeOptimizer)
        if strategy.rank == 0:
            tell_of_seeds(trainer.model)
        if args.save_strategy != "no":
            check_data(unwrap(trainer.model).state_dict())
        is_own = self.given.pair[0] is not None or self.overrides.any(
            "create_optimizer", "create_optimizer_and_scheduler"
        )
        self.train_step.begin_run(takes_late=not is_own)
        if args.neftune_noise_alpha is not None:
            self.train_step.noise = add_noise(trainer.model, args.neftune_noise_alpha)
        update_context(trainer, self.dispatcher)

    def _check_optimizer(self) -> None:
        trainer = self.trainer
        others = partial(parameters_elsewhere, self.train_step.holders(), trainer.optimizer)
        check_optimizer(trainer.model, trainer.optimizer, others, tells=self.strategy.rank == 0)

    def take_other_optimizer(self) -> Any:
        """Go on with the optimizer, or the dict of optimizers, that a callback has set within the run; return it."""
        step = self.train_step
        optimizer = self.trainer.optimizer = as_one_optimizer(self.trainer.optimizer)
        self._check_optimizer()
        if needs_closure(optimizer) and not needs_closure(step.parameters.optimizer):
            raise UnsupportedError(f"{type(optimizer).__name__} needs a closure; set it before train()")
        step.optimizer_mode = OptimizerMode(optimizer)
        step.optimizer_mode.train()
        return super().take_other_optimizer()

    def reschedule(self, max_steps: int, step: int) -> None:
        """Make the schedule for another length of the run."""
        super().reschedule(max_steps, step)
        update_context(self.trainer, self.dispatcher)

    def _materialize(self) -> None:
        """Give the parameters of lazy modules their shapes, which follow from the first batch, for the optimizer.

        Raises:
            TracksideValueError: If a parameter still has none.
        """
        trainer, step = self.trainer, self.train_step
        if not lazy_names(trainer.model):
            return
        batch = next(iter(loader.iterate_epoch(self.train_loader, seed=trainer.args.seed, epoch=0)), None)
        if batch is not None:
            with eval_mode(trainer.model, None):
                step.loss_of(trainer.model, step.place(batch.inputs))
        if names := lazy_names(trainer.model):
            raise TracksideValueError(
                f"{', '.join(names[:5])} have no shape after the first batch, so that no optimizer can have them: "
                "compute_loss does not use these lazy modules. Call the model once before it is given to the trainer"
            )

    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators from the checkpoint, or without one from ``args.seed`` and the rank."""
        if checkpoint is None or not self.checkpoint.load_random_state(checkpoint):
            seed = self.trainer.args.seed + self.strategy.rank
            set_seed(seed)
            self.strategy.seed(seed)

    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""
        set_seed(seed, deterministic=self.trainer.args.full_determinism)

    # -- the epoch ------------------------------------------------------------------------------------------------

    def _epoch_batches(self, epoch: int, skip_examples: int, seed: int) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch for this process, after the sampler's epoch is set."""
        args = self.trainer.args
        self.model_io.past = None
        if isinstance(self.train_loader, loader.EpochLoader):
            self.train_loader.seed_order(seed)
        batches = loader.iterate_epoch(
            self.train_loader,
            seed=seed,
            epoch=epoch,
            skip_examples=0 if args.ignore_data_skip else skip_examples,
            size_of=self.model_io.examples_in,
            rank=self.strategy.rank,
            world_size=self.strategy.world_size,
        )
        if args.torch_empty_cache_steps is not None:
            batches = giving_back(batches, args.torch_empty_cache_steps, args.device, self._step)
        return batches

    def _step(self) -> int:
        return int(self.trainer.state.global_step)

    def batches_used(self, progress: Progress) -> int | None:
        """Return this process's micro-batches that hold the epoch's used examples in ``progress``; None if unknown."""
        return loader.batches_used(self.train_loader, progress.epoch, progress.examples_in_epoch)

    def describe_data(self) -> DataDescription:
        """Return a description of the training data."""
        columns = getattr(self.trainer.train_dataset, "column_names", None)
        is_list = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
        return DataDescription(
            examples=loader.expected_examples(self.train_loader),
            columns=columns if is_list else None,
            micro_batch=loader.examples_of_batch(self.train_loader),
        )

    def describe_model(self) -> ModelDescription:
        """Return a description of the model."""
        model, args = self.trainer.model, self.trainer.args
        trained = sum(item.numel() for item in model.parameters() if item.requires_grad)
        kept = ", ".join(sorted({str(item.dtype).removeprefix("torch.") for item in model.parameters()}))
        computed = "fp16" if args.fp16 else "bf16" if args.bf16 else ""
        where = f"{args.device} in {kept or 'no precision'}" + (f", computed in {computed}" if computed else "")
        weights = sum(item.numel() for item in model.parameters())
        return ModelDescription(type(unwrap(model)).__name__, weights, trained, where)

    # -- processes and devices ------------------------------------------------------------------------------------

    def propagate_errors(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all processes with the first error."""
        return self.strategy.propagate_errors()

    def sync_control(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first process; return the stop signal that any process received."""
        return self.strategy.sync_control(self.trainer.control, stop_signal, after_update=after_update)

    def job_store(self) -> JobStore | None:
        """Return the store of torchrun's agent, which persists when processes are restarted."""
        return job_store(self.trainer.args)

    def device_memory(self, reset: bool) -> DeviceMemory | None:
        """Return the memory of the GPU, after a reset of its peak if ``reset``; None without a GPU."""
        device = self.trainer.args.device
        if device.type != "cuda":
            return None
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return DeviceMemory(torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device))


def lazy_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that have no shape yet."""
    return [name for name, parameter in model.named_parameters() if nn.parameter.is_lazy(parameter)]


def check_choices(args: Any) -> None:
    """Check what ``args`` choose by names that the framework has, without a model.

    Raises:
        ArgumentError: As in training.
    """
    check_options_of_model(args)
    check_choice(args)
