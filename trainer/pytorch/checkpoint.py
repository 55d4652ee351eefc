"""What a checkpoint holds of a PyTorch run: taking it, writing it, and restoring it; `snapshot` has the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import CheckpointError

from ..checkpointing.manifest import Contents, contents_of, roles_of
from ..checkpointing.store import Write
from ..engine import CheckpointIO, Overrides
from . import snapshot
from ._torch_util import unwrap
from .distributed.strategy import DistributedStrategy
from .model_io import ModelIO
from .train_step import TorchTrainStep


class TorchCheckpoint(CheckpointIO):
    """Takes and restores snapshots of a trainer on PyTorch.

    Args:
        trainer: Its model, optimizer, schedule and processing class; ``save_model`` is called if it is overridden.
        overrides: The trainer's own methods.
        model_io: Holds the memory of ``past_index``.
        strategy: Gathers what is spread over processes.
        train_step: Its precision has a state of its own.
    """

    def __init__(
        self,
        trainer: Any,
        overrides: Overrides,
        model_io: ModelIO,
        strategy: DistributedStrategy,
        train_step: TorchTrainStep,
    ) -> None:
        self.trainer = trainer
        self.model_io = model_io
        self.strategy = strategy
        self.train_step = train_step
        self._save_model: Callable[[str], None] | None = trainer.save_model if "save_model" in overrides else None

    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        trainer, strategy = self.trainer, self.strategy
        copy = copy or strategy.must_copy
        weights: dict[str, Any] | None = self._model.state_dict(keep_vars=True) if copy else None
        files: dict[str, Any] = {}
        if not trainer.args.save_only_model:
            files = {
                snapshot.OPTIMIZER_FILE: None if strategy.is_sharded else trainer.optimizer.state_dict(),
                snapshot.SCHEDULE_FILE: None if trainer.lr_scheduler is None else trainer.lr_scheduler.state_dict(),
                snapshot.SCALER_FILE: self.train_step.precision.state_dict() or None,
            }
        past = {} if self.model_io.past is None else {"past": snapshot.copied(self.model_io.past)}
        own = {**snapshot.random_state(), **strategy.random_state(), **past}
        states = strategy.collectives.gather("the random number states", own)
        if copy:
            weights, files = snapshot.copied((weights, files))
        files |= {snapshot.RNG_FILE.format(rank=rank): state for rank, state in enumerate(states)}

        def write(folder: Path) -> dict[str, str]:
            if strategy.is_sharded:
                self._write_shards(folder)
                roles = roles_of(f"{snapshot.SHARDS}/{name}" for name in os.listdir(folder / snapshot.SHARDS))
                return {**roles, **snapshot.write_torch(folder, files)}
            if self._save_model is not None:
                self._save_model(str(folder))
            if not snapshot.weights_in(folder):
                self._write_model(folder, weights)
            return {**dict.fromkeys(snapshot.weights_in(folder), "weights"), **snapshot.write_torch(folder, files)}

        return write

    def write_shards(self) -> None:
        """Write what this process adds to the checkpoint that the first one is writing: its shards, if it has any."""
        if self.strategy.is_sharded:
            self._write_shards(None)

    def load_snapshot(self, contents: Contents) -> None:
        """Restore what `snapshot` wrote, except the random number generators.

        Raises:
            CheckpointError: If it is the checkpoint of a run with save_only_model.
        """
        trainer = self.trainer
        optimizer = contents.find(snapshot.OPTIMIZER_FILE)
        if optimizer is None and not contents.names("shards"):
            raise CheckpointError(
                f"{contents.path} cannot be resumed: it has no {snapshot.OPTIMIZER_FILE}, since it was written with "
                "save_only_model=True. Load the model from it and start afresh"
            )
        self._load(contents, trainer.optimizer)
        if optimizer is not None:
            snapshot.load_optimizer(trainer.optimizer, snapshot.read_torch(optimizer))
        targets = ((snapshot.SCHEDULE_FILE, trainer.lr_scheduler), (snapshot.SCALER_FILE, self.train_step.precision))
        for name, target in targets:
            path = contents.find(name)
            if path is not None and target is not None:
                target.load_state_dict(snapshot.read_torch(path))

    def load_random_state(self, folder: Path) -> bool:
        """Restore the random number generators of this rank; return whether the checkpoint holds them."""
        path = contents_of(folder).find(snapshot.RNG_FILE.format(rank=self.strategy.rank))
        if path is None:
            return False
        state = snapshot.read_torch(path)
        snapshot.set_random_state(state)
        self.strategy.set_random_state(state)
        self.model_io.past = None if state.get("past") is None else self.train_step.place(state["past"])
        return True

    def load_weights(self, contents: Contents) -> None:
        """Load the weights of a checkpoint, and nothing else."""
        self._load(contents, None)

    def save_model(self, output_dir: str | None) -> None:
        """Write weights, configuration and processing class into ``output_dir``, from the first process."""
        weights = self.strategy.full_weights(self.trainer.model)
        if self.trainer.is_world_process_zero():
            folder = Path(output_dir or self.trainer.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._write_model(folder, weights)

    @property
    def _model(self) -> Any:
        return unwrap(self.trainer.model)

    def _write_shards(self, folder: Path | None) -> None:
        from .distributed.fsdp import write_shards

        optimizer = None if self.trainer.args.save_only_model else self.trainer.optimizer
        shared: Any = self.strategy.collectives.gather("the folder of the shards", folder)[0]
        write_shards(shared, self.trainer.model, optimizer)

    def _write_model(self, folder: Path, weights: dict[str, Any] | None) -> None:
        snapshot.save_weights(self._model, folder, weights)
        if hasattr(self.trainer.processing_class, "save_pretrained"):
            self.trainer.processing_class.save_pretrained(folder)

    def _load(self, contents: Contents, optimizer: Any) -> None:
        if contents.names("shards"):
            from .distributed.fsdp import load_shards

            load_shards(contents, self._model, optimizer)
        elif self.strategy.is_sharded:
            from .distributed.fsdp import load_whole

            load_whole(contents, self.trainer.model, optimizer)
        else:
            snapshot.load_weights(self._model, contents)
