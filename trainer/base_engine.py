"""The framework-free base of the engines and their parts, the files of a checkpoint included."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import CheckpointError, TracksideValueError

from .checkpointing.manifest import Contents, contents_of
from .checkpointing.rehearsal import StateFiles
from .checkpointing.restoring import restore_scaler, restore_schedule, restoring
from .checkpointing.saving.host_buffers import Buffers, HostBuffers
from .checkpointing.store import Write
from .engine import CheckpointIO, Engine, TrainBatch, TrainStep
from .measuring.current_epoch import WatchesLosses
from .measuring.loss_watch import LooksAtLosses
from .optim.given import GivenOptimizers
from .optim.lr_schedules import step_schedule
from .optim.resuming import MadeOptimizer
from .overrides import Overrides
from .step_timer import StepTimer

logger: logging.Logger = logging.getLogger("trackside.trainer")


class BaseEngine(Engine):
    """An engine without a framework.

    Args:
        trainer: Has model, arguments, optimizer and schedule; its documented methods are called, overridden or not.
        dispatcher: Receives the keyword arguments of callbacks.
        overrides: The documented methods that the trainer overrides.
        strategy: The distribution of the run over processes.
        step_timer: Times whole steps.

    Attributes:
        model_io: Calls the model.
    """

    model_io: Any

    def __init__(
        self, trainer: Any, dispatcher: Dispatcher, overrides: Overrides, strategy: Any, step_timer: StepTimer
    ) -> None:
        self.trainer: Any = trainer
        self.dispatcher: Dispatcher = dispatcher
        self.overrides: Overrides = overrides
        self.strategy = strategy
        self.step_timer = step_timer
        self.given: GivenOptimizers = GivenOptimizers(trainer)
        self.made: MadeOptimizer | None = None

    def replace_model(self) -> None:
        """Let go of the previous model, optimizer, schedule and training data, and set up for the present model."""
        self.made = None
        self.given.restore()
        self.configure()

    def create_optimizer_and_scheduler(self, max_steps: int) -> None:
        """Have the trainer create the optimizer and the schedule again, unless the user gave them.

        Raises:
            TracksideValueError: If an override creates no optimizer.
        """
        trainer = self.trainer
        with self.given.restored():
            trainer.create_optimizer_and_scheduler(max_steps)
        if trainer.optimizer is None:
            raise TracksideValueError(
                "create_optimizer_and_scheduler() made no optimizer: it sets self.optimizer, and self.lr_scheduler"
            )

    def _note_made(self, make: Callable[[Any, Any, Any], MadeOptimizer]) -> None:
        """Keep the optimizer and the schedule as made; those that the user gave keep what they were at first."""
        optimizer, schedule = self.given.note_left()
        if self.made is None or self.made.optimizer is not optimizer or self.made.schedule is not schedule:
            self.made = make(optimizer, schedule, self.trainer.model)

    def reschedule(self, max_steps: int, step: int) -> None:
        """Make the schedule for another length of the run, and go to its position; one of the user's own stays."""
        trainer, made = self.trainer, self.made
        if trainer.lr_scheduler is None or made is None:
            return
        if self.given.pair[1] is not None or "create_optimizer_and_scheduler" in self.overrides:
            logger.warning("the schedule, which is yours, stays as it was made")
            return

        def make() -> Any:
            trainer.lr_scheduler = None
            return trainer.create_scheduler(max_steps)

        made.reschedule(make, step)
        trainer.lr_scheduler = made.schedule
        self.given.note_left()

    def optimizer_record(self) -> dict[str, Any] | None:
        """Return the description of optimizer and schedule as made; None before the model is prepared."""
        return None if self.made is None else self.made.record

    def count_examples(self, window: Sequence[TrainBatch]) -> int:
        """Return the examples in a window, counted over all processes."""
        return sum(batch.examples_of_all for batch in window)


class EnginePart:
    """A part of an engine.

    Args:
        engine: The engine that it belongs to; configured up to this part.
    """

    def __init__(self, engine: BaseEngine) -> None:
        self.trainer: Any = engine.trainer
        self.overrides: Overrides = engine.overrides
        self.strategy: Any = engine.strategy
        self.model_io: Any = engine.model_io


class BaseTrainStep(WatchesLosses, LooksAtLosses, EnginePart, TrainStep):
    """One update; counts what it works through.

    Args:
        engine: Its timer is told when this process is about to wait for others.
        precision: Scales the loss.
    """

    def __init__(self, engine: BaseEngine, precision: Any) -> None:
        super().__init__(engine)
        self.precision: Any = precision
        self.timer: StepTimer = engine.step_timer
        self._flos = 0
        self._tokens = 0
        self._used: Callable[[], list[dict[str, Any]]] = list  # shows the groups of the last update

    def end_update(self, skipped: bool) -> None:
        """Step the schedule, unless the optimizer's step was skipped, and clear the gradients."""
        if not skipped:
            step_schedule(self.trainer.lr_scheduler)
        self.clear_gradients()

    @abstractmethod
    def clear_gradients(self) -> None:
        """Clear the gradients."""

    def used_groups(self) -> list[dict[str, Any]]:
        """Return the hyperparameters of each parameter group in the last update; empty before the first update."""
        return self._used()

    def end_run(self) -> None:
        """Do nothing: the model is used after training as it was trained."""

    def take_flos(self) -> float:
        """Return the floating point operations of this process since the last call."""
        flos, self._flos = self._flos, 0
        return float(flos)

    def _count_work(self, inputs: Any, processes: int = 1) -> None:
        """Count the operations and the tokens of a micro-batch, of as many ``processes``, each with as many tokens."""
        if self.model_io.counts_flos:
            self._flos += self.trainer.floating_point_ops(inputs)
        if isinstance(inputs, Mapping) and "input_ids" in inputs:
            if self.trainer.args.include_num_input_tokens_seen == "non_padding" and "attention_mask" in inputs:
                self._tokens += int(inputs["attention_mask"].sum())  # of this process; see `_tokens_record`
            else:
                self.trainer.state.num_input_tokens_seen += math.prod(inputs["input_ids"].shape) * processes

    def _tokens_record(self) -> dict[str, float]:
        """Return the number of input tokens so far, of all processes, if a log record is to have it."""
        args, state = self.trainer.args, self.trainer.state
        if args.include_num_input_tokens_seen == "non_padding":
            state.num_input_tokens_seen += int(self.strategy.all_reduce(self._tokens))
            self._tokens = 0
        seen = state.num_input_tokens_seen
        return {} if args.include_num_input_tokens_seen == "no" else {"num_input_tokens_seen": seen}


class BaseCheckpoint(EnginePart, StateFiles, CheckpointIO):
    """Takes and restores snapshots; a framework adds the writing and reading of weights and single files.

    Args:
        engine: Its trainer provides model, optimizer and schedule; an overridden ``save_model`` is called. The
            precision of its train_step has its own state.
    """

    def __init__(self, engine: BaseEngine) -> None:
        super().__init__(engine)
        self.engine = engine
        self.train_step: Any = engine.train_step
        self.buffers: HostBuffers = self._new_buffers()

    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        buffers = self.buffers.lend() if copy else None
        write_model = None if self.strategy.is_sharded else self._model_writer(buffers)
        files = {} if self.trainer.args.save_only_model else self._states(self._optimizer_state())
        if buffers is not None:
            files = self._copied(files, buffers)
            buffers.complete()
        states = self.strategy.collectives.gather("the random number states", self._random_state())
        files |= {self._rng_file(rank): state for rank, state in enumerate(states)}

        def write(folder: Path) -> dict[str, str]:
            roles = {**self._write_weights(folder, write_model), **self._write_files(folder, files)}
            if buffers is not None:
                buffers.give_back()
            return roles

        return write

    def release_memory(self) -> None:
        """Free the memory of copies that are written."""
        self.buffers.release()

    def load_snapshot(self, contents: Contents, before: Mapping[str, Any] | None, step: int) -> None:
        """Restore what `snapshot` wrote, except the random number generators.

        Hyperparameters and schedule are those of this run where they were made differently.

        Raises:
            CheckpointError: If the checkpoint was written with save_only_model.
        """
        optimizer = contents.find(self.optimizer_file)
        if optimizer is None and not contents.names("shards"):
            reason = "it was written with save_only_model=True. Load the model from it and start afresh"
            if others := contents.names("optimizer"):
                reason = f"the trainer of another framework wrote it, with {others[0]}. Resume it with that trainer"
            raise CheckpointError(f"{contents.path} cannot be resumed: it has no {self.optimizer_file}, since {reason}")
        made = self.engine.made
        assert made is not None  # the model is prepared
        with restoring(contents.path, "weights"):
            self._load_weights(contents, self.trainer.optimizer)
        with restoring(contents.path, self.optimizer_file):
            notes = made.load_optimizer(None if optimizer is None else self._read_optimizer(optimizer), before)
        notes += restore_schedule(contents, f"scheduler{self.suffix}", self._read_file, made, before, step)
        restore_scaler(contents, f"scaler{self.suffix}", self._read_file, self.train_step.precision)
        for note in notes if self.trainer.state.is_world_process_zero else ():
            logger.warning("resuming: %s", note)

    def load_random_state(self, folder: Path) -> bool:
        """Restore the random number generators of this rank; return whether the checkpoint holds them."""
        contents, name = contents_of(folder), self._rng_file(self.strategy.rank)
        path = contents.find(name)
        if path is None:
            logger.warning("%s has no %s; the random numbers of this process begin anew from the seed", folder, name)
            return False
        with restoring(folder, name):
            self._set_random_state(self._read_file(path))
        return True

    @contextmanager
    def random_state_kept(self) -> Iterator[None]:
        """Return a context that ends with the states of the random number generators with which it began."""
        state = self._random_state()
        try:
            yield
        finally:
            self._set_random_state(state)

    def load_weights(self, contents: Contents) -> None:
        """Load only the weights of a checkpoint."""
        with restoring(contents.path, "weights"):
            self._load_weights(contents, None)

    def save_model(self, output_dir: str | None) -> None:
        """Write the weights and the other files of the model into ``output_dir``, on the first process."""
        write_model = self._model_writer(None)
        if self.trainer.is_world_process_zero():
            folder = Path(output_dir or self.trainer.args.output_dir).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
            write_model(folder)

    def _write_weights(self, folder: Path, write_model: Callable[[Path], None] | None) -> dict[str, str]:
        """Write the weights by an overridden ``save_model``, if any, and by ``write_model``; return their roles."""
        if "save_model" in self.overrides:
            self.trainer.save_model(str(folder))
        if write_model is not None:
            self._complete(folder, write_model)
        return dict.fromkeys(self._weights_in(folder), "weights")

    def _complete(self, folder: Path, write_model: Callable[[Path], None], /) -> None:
        """Write what ``folder`` lacks of the weights."""
        if not self._weights_in(folder):
            write_model(folder)

    def _new_buffers(self) -> HostBuffers:
        """Return the memory that the copies of successive snapshots share."""
        return HostBuffers()

    def _copied(self, files: dict[str, Any], buffers: Buffers, /) -> dict[str, Any]:
        """Return the current contents of files, protected from later changes by training."""
        return files

    # -- implemented by a framework -----------------------------------------------------------------------------------

    @abstractmethod
    def _model_writer(self, buffers: Buffers | None) -> Callable[[Path], None]:
        """Return a function that writes the weights into a folder; with ``buffers``, a copy of the current ones."""

    @abstractmethod
    def _weights_in(self, folder: Path, /) -> list[str]:
        """Return the names of the weight files in ``folder``; empty if there are none."""

    @abstractmethod
    def _load_weights(self, contents: Contents, optimizer: Any) -> None:
        """Load the weights; from shards, also the state of ``optimizer``, unless it is None."""

    @abstractmethod
    def _read_optimizer(self, path: Path) -> Any:
        """Return the content of the optimizer's file, as `MadeOptimizer.load_optimizer` takes it."""

    @abstractmethod
    def _set_random_state(self, state: dict[str, Any]) -> None:
        """Restore the states that `_random_state` returned."""
