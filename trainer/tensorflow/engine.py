"""The TensorFlow engine: set-up of data and model, epochs, random numbers and processes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import tensorflow as tf

from trackside.callbacks.bus.dispatcher import Dispatcher

from ..base_engine.engine import BaseEngine
from ..callback_setup import update_context
from ..checkpointing.position import tell_of_size
from ..data.sharding import derive_seed
from ..distributed.launcher import JobStore
from ..measuring.descriptions import DataDescription, ModelDescription
from ..measuring.memory import DeviceMemory
from ..measuring.step_timer import StepTimer
from ..optim.given import GivenOptimizers
from ..overrides import Overrides
from ..progress import Progress
from ..train_step import TrainBatch
from .checkpoint import TFCheckpoint
from .data.factory import check_same_spec, make_batches, training_options
from .data.leaves import examples_in
from .data.loader import Batches, OwnBatches
from .data.readers import IteratorReader
from .data.stateful import check_batch_size
from .distributed.strategy import DistributedStrategy, strategy_for
from .draws.state import DRAWS
from .evaluation import TFEvaluation
from .model_io import ModelIO
from .objective.compile_options import tell_of_loss, tell_of_options
from .objective.misfits import tell_of_unused
from .optim.factory import check_choice, own_optimizer, own_schedule, prepare_optimizer
from .optim.resuming import TFMadeOptimizer
from .precision.factory import precision_for, set_tf32
from .precision.policies import check_scaled
from .seeding import set_seed
from .train_step import TFTrainStep
from .weights.average import TFWeightAverage
from .weights.model_state import seed_generators
from .weights.sandbox import TFSandbox


class TFEngine(BaseEngine):
    """Runs a trainer's model with TensorFlow.

    Args:
        trainer: Has model, arguments, optimizer and schedule; its documented methods are called, overridden or not.
        dispatcher: Receives the keyword arguments of callbacks.
        overrides: The documented methods that the trainer overrides.

    Attributes:
        epoch_number: The epoch whose batches are requested.
        trace_counts: Number of traces of each function, by name, in the current or last run.
    """

    strategy: DistributedStrategy
    train_step: TFTrainStep
    evaluation: TFEvaluation
    checkpoint: TFCheckpoint
    model_io: ModelIO

    def __init__(self, trainer: Any, dispatcher: Dispatcher, overrides: Overrides) -> None:
        super().__init__(trainer, dispatcher, overrides, strategy_for(trainer.args), StepTimer())
        self.given = GivenOptimizers(trainer, lambda *pair: (own_optimizer(pair[0]), own_schedule(pair[1])))
        self.trace_counts: Counter[str] = Counter()
        self.epoch_number: int = 0

    def _new_sandbox(self) -> TFSandbox:
        return TFSandbox(self)

    def _new_average(self) -> TFWeightAverage:
        return TFWeightAverage(self)

    def configure(self) -> None:
        """Create the parts that depend on the arguments."""
        trainer = self.trainer
        set_tf32(trainer.args.tf32)
        trainer.model_wrapped = trainer.model
        self.train_batches: Batches = None  # type: ignore[assignment]  # prepare_data creates it
        self._loaded: Any = None
        self.epoch_number = 0
        self.trace_counts.clear()
        self.model_io = ModelIO(trainer, self.overrides, self.strategy)
        self.train_step = TFTrainStep(self, precision_for(trainer.args), self.trace_counts)
        self.evaluation = TFEvaluation(self, self.trace_counts)
        self.checkpoint = TFCheckpoint(self)

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _prepare_data(self, resized: tuple[int | None, int] | None) -> int | None:
        """Build the source of training batches; return its number of batches per epoch, if known."""
        self._build_batches()
        if resized is None:
            return self.train_batches.num_batches()
        tell_of_size(self.train_batches.num_examples, resized[0], self.strategy.rank)
        if self.train_batches.num_examples is None:
            return resized[1]
        self.train_batches.num_examples = resized[0]
        return self.train_batches.num_batches()

    def _refresh_data(self, epoch: int) -> tuple[bool, int | None]:
        """Take another ``trainer.train_dataset``, or other batches of a subclass in this epoch, into account."""
        spec, is_other = self.train_batches.element_spec, self.trainer.train_dataset is not self._loaded
        if is_other:
            self._build_batches()
            check_same_spec(self.train_batches.element_spec, spec)
        is_resized = self.train_batches.begin(epoch)
        return is_other or is_resized, self.train_batches.num_batches()

    def _build_batches(self) -> None:
        trainer, options = self.trainer, training_options(self.trainer.args)
        self._loaded = trainer.train_dataset
        if "get_train_tfdataset" in self.overrides:
            self.train_batches = OwnBatches(self._own_batches, **options)
        else:
            self.train_batches = make_batches(trainer.train_dataset, **options)
        update_context(trainer, self.dispatcher, train_dataloader=self.train_batches)

    def _own_batches(self, epoch: int) -> Any:
        self.epoch_number = epoch
        return self.trainer.get_train_tfdataset()

    def prepare_model(self, max_steps: int) -> None:
        """Build the model on every replica; create the optimizer, the schedule and the functions of the step."""
        trainer, step, strategy = self.trainer, self.train_step, self.strategy
        step.precision = precision_for(trainer.args)
        self.model_io.build(self.train_batches, step.precision.policy)
        if strategy.replicas == 1:
            check_batch_size(self.train_batches, trainer.model, "train")
        check_scaled(trainer.model, step.precision)
        self.model_io.check_loss()
        trainer.model_wrapped = trainer.model
        with strategy.scope():
            self.create_optimizer_and_scheduler(max_steps)
            step.precision.begin_as(trainer.optimizer)
            trainer.optimizer = prepare_optimizer(trainer.optimizer, trainer.model, strategy.replicas)
        self._note_made(TFMadeOptimizer)
        if trainer.is_world_process_zero():
            own = self.overrides.any("create_optimizer", "create_optimizer_and_scheduler")
            tell_of_options(trainer.model, trainer.args, makes_optimizer=not own and self.given.pair[0] is None)
            tell_of_loss(trainer.model, trainer.loss_fn)
            tell_of_unused(trainer.model, self.train_batches.element_spec.features)
            self.model_io.tell_of_cut(self.train_batches)
        self.trace_counts.clear()
        self.evaluation.forget_traces()  # the step is traced anew too, with what the model is now
        step.begin_run(self.train_batches.element_spec)
        update_context(trainer, self.dispatcher)

    def take_other_optimizer(self) -> Any:
        """Go on with the optimizer that a callback has set within the run, in the strategy's scope; return it."""
        trainer = self.trainer
        optimizer = own_optimizer(trainer.optimizer)
        trainer.optimizer = prepare_optimizer(optimizer, trainer.model, self.strategy.replicas)
        return super().take_other_optimizer()

    def take_other_schedule(self) -> None:
        """Go on with the schedule that a callback has set within the run, which may be any function of the step."""
        self.trainer.lr_scheduler = own_schedule(self.trainer.lr_scheduler)
        super().take_other_schedule()

    def reschedule(self, max_steps: int, step: int) -> None:
        """Make the schedule for another length of the run."""
        with self.strategy.scope():
            super().reschedule(max_steps, step)
        update_context(self.trainer, self.dispatcher)

    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators from the checkpoint, or without one from ``args.seed`` and the rank."""
        seed, rank = self.trainer.args.seed, self.strategy.rank
        set_seed(seed if rank == 0 else derive_seed(seed, rank) % 2**32)
        tf.random.set_seed(seed)  # the order of a tf.data.Dataset depends on it, and is the same on every process
        seed_generators(self.trainer.model, seed)
        DRAWS.seed(seed)
        if checkpoint is not None:
            self.checkpoint.load_random_state(checkpoint)

    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""
        set_seed(seed, deterministic=self.trainer.args.full_determinism)

    # -- the epoch ------------------------------------------------------------------------------------------------

    def _epoch_batches(self, epoch: int, skip_examples: int, seed: int) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch, each with the examples of all replicas."""
        self.train_batches.seed = seed
        return self._read(epoch, skip_examples)

    def _read(self, epoch: int, skip_examples: int) -> Iterator[TrainBatch]:
        skip = 0 if self.trainer.args.ignore_data_skip else skip_examples
        self.train_step.may_be_other = True  # on_epoch_begin was sent
        step, batches = self.train_step, self.train_batches
        # what counts operations or times the reading needs each batch on the host, before the step
        reader = None if self.model_io.counts_flos or self.step_timer.is_on else batches.reader(epoch, skip)
        if reader is not None and (step.queue.size > 1 or isinstance(reader, IteratorReader)):
            yield from reader
        else:
            pairs = batches.epoch(epoch, skip) if reader is None else (reader.read() for _ in reader)
            for pair in pairs:
                examples = examples_in(pair)
                yield TrainBatch(pair, examples, examples)
        self._end_epoch()

    def _end_epoch(self) -> None:
        """Do the updates that are queued."""
        self.train_step.queue.flush()

    def batches_used(self, progress: Progress) -> int | None:
        """Return the number of micro-batches that hold the epoch's used examples; None if it is unknown."""
        return self.train_batches.batches_used(progress.examples_in_epoch, progress.batches_in_epoch)

    def describe_data(self) -> DataDescription:
        """Return a description of the training data."""
        batches = self.train_batches
        size = batches.batch_size if batches.is_cut_here else None
        return DataDescription(batches.num_examples, columns=str(batches.element_spec), micro_batch=size)

    def describe_model(self) -> ModelDescription:
        """Return a description of the model."""
        model, replicas = self.trainer.model, self.strategy.replicas
        sizes = [math.prod(item.shape) for item in model.weights]
        trained = sum(math.prod(item.shape) for item in model.trainable_weights)
        where = f"{replicas} replicas" if replicas > 1 else "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        where += f" in {', '.join(sorted({str(item.dtype) for item in model.weights})) or 'no precision'}"
        policy = self.train_step.precision.policy
        where += "" if policy is None else f", computed in {policy.removeprefix('mixed_')}"
        return ModelDescription(type(model).__name__, sum(sizes), trained, where)

    # -- processes and devices ------------------------------------------------------------------------------------

    def propagate_errors(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing: tf.distribute itself ends the other processes when one fails."""
        return nullcontext()

    def sync_control(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first process; return the stop signal that any process received."""
        control = self.trainer.control
        signal = self.strategy.sync_control(control, stop_signal)
        if control.should_training_stop or control.should_epoch_stop or signal is not None:
            self.train_step.queue.flush()
        return signal

    def job_store(self) -> JobStore | None:
        """Return None: no store persists when a job is restarted."""
        return None

    def device_memory(self, reset: bool) -> DeviceMemory | None:
        """Return None: the memory of accelerators is not measured."""
        return None


def check_choices(args: Any) -> None:
    """Check what ``args`` choose by names that the framework has, without a model.

    Raises:
        ArgumentError: As in training.
    """
    check_choice(args)
