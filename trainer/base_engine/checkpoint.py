"""The framework-free base of what takes and restores snapshots, and the files of a checkpoint."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import CheckpointError

from ..checkpointing.manifest import Contents, contents_of
from ..checkpointing.restoring import restore_scaler, restore_schedule, restoring
from ..checkpointing.saving.host_buffers import Buffers, HostBuffers
from ..checkpointing.store import Write
from ..engine import CheckpointIO
from .engine import BaseEngine, EnginePart
from .state_files import StateFiles
from .unsaved import Marks, UnsavedState

logger: logging.Logger = logging.getLogger("trackside.trainer")


class BaseCheckpoint(EnginePart, StateFiles, CheckpointIO):
    """Takes and restores snapshots; a framework adds the writing and reading of weights and single files.

    Args:
        engine: Its trainer provides model, optimizer and schedule; an overridden ``save_model`` is called. The
            precision of its train_step has its own state.
    """

    def __init__(self, engine: BaseEngine) -> None:
        super().__init__(engine)
        self.train_step: Any = engine.train_step
        self.buffers: HostBuffers = self._new_buffers()
        self._told = set()
        self._unsaved: UnsavedState | None = None

    def begin_run(self) -> None:
        """Note what no checkpoint will hold, to tell if training changes it."""
        if self.strategy.rank == 0 and not self.trainer.args.save_only_model:
            self._unsaved = UnsavedState(self._marks, lambda: self.trainer.state.stateful_callbacks)

    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        self.engine.take_other_schedule()
        if self._unsaved is not None:
            self._unsaved.tell()
        average, is_whole = self.engine.average, not self.trainer.args.save_only_model
        buffers = self.buffers.lend() if copy or average.is_begun else None
        trained = average.states() if is_whole else None
        with average.shown():
            write_model = None if self.strategy.is_sharded else self._model_writer(buffers)
            files = self._states(self._optimizer_state()) if is_whole else {}
            if buffers is not None:
                files = self._copied(files, buffers)
                buffers.complete()
        files[self.trained_file] = None if trained is None else self._as_data(trained, self.trained_file, self._tell)
        files |= {self._rng_file(rank): state for rank, state in enumerate(self._random_states())}

        def write(folder: Path) -> dict[str, str]:
            if buffers is not None:
                buffers.wait()
            roles = {**self._write_weights(folder, write_model), **self._write_files(folder, files)}
            if buffers is not None:
                buffers.give_back()
            return roles

        return write

    def _random_states(self) -> list[dict[str, Any]]:
        """Return the states of all ranks where this process may write them, otherwise nothing."""
        collectives = self.strategy.collectives
        has_several_writers = self.trainer.args.save_on_each_node
        gather = collectives.gather if has_several_writers else collectives.gather_to_first
        return gather("the random number states", self._random_state()) or []

    def prepare_memory(self) -> None:
        """Make the memory of the first copy in the background, unless it is that of a GPU, or pinned for one."""
        if self._is_on_host:
            self.buffers.prepare(self.sizes_needed())

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
            others = contents.names("optimizer")
            reason = "it was written with save_only_model=True. Load the model from it and start afresh"
            if others:
                reason = f"the trainer of another framework wrote it, with {others[0]}. Resume it with that trainer"
            raise CheckpointError(f"{contents.path} cannot be resumed: it has no {self.optimizer_file}, since {reason}")
        made = self.engine.made
        assert made is not None  # the model is prepared
        if before is not None and not self.trainer.args.restore_callback_states_from_checkpoint:
            before = {**before, "trainable": None}  # what callbacks had frozen is their state, too
        with restoring(contents.path, "weights"):
            self._load_weights(contents, self.trainer.optimizer)
            trained = contents.find(self.trained_file)
            self.engine.average.restore(None if trained is None else self._read_file(trained), is_wanted=self._averages)
        with restoring(contents.path, self.optimizer_file):
            notes = made.load_optimizer(None if optimizer is None else self._read_optimizer(optimizer), before)
        notes += restore_schedule(contents, f"scheduler{self.suffix}", self._read_file, made, before, step)
        restore_scaler(contents, f"scaler{self.suffix}", self._read_file, self.train_step.precision)
        for note in notes if self.trainer.state.is_world_process_zero else ():
            logger.warning("resuming: %s", note)

    @property
    def _averages(self) -> bool:
        """Whether a callback averages the weights."""
        attached = self.engine.dispatcher.attachments.values()
        return any(getattr(item.callback, "averages_weights", False) for item in attached)

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
        """Write the weights and the other files of the model into ``output_dir``, where ``args.should_save``."""
        with self.engine.average.shown():
            self._save_model(Path(output_dir or self.trainer.args.output_dir).expanduser())

    def _save_model(self, folder: Path) -> None:
        """Write the present weights and the other files of the model."""
        write_model = self._model_writer(None)
        if self.trainer.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            write_model(folder)

    def _write_weights(self, folder: Path, write_model: Callable[[Path], None] | None) -> dict[str, str]:
        """Write the weights by an overridden ``save_model``, if any, and by ``write_model``; return their roles."""
        if "save_model" in self.overrides:
            with self.engine.average.shown():
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
        """Return the contents of files as they are now, whatever training changes later.

        They may be copied later, too, in memory of ``buffers``.
        """
        return files

    # -- implemented by a framework -----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _is_on_host(self) -> bool:
        """Whether the model is computed on the CPU."""

    @abstractmethod
    def _marks(self) -> Marks:
        """Return what tells whether a part of the run has changed that no checkpoint holds."""

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
