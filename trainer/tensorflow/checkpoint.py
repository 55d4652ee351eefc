"""What a checkpoint holds of a TensorFlow run: taking it, writing it, and restoring it; `snapshot` has the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trackside.callbacks.errors import CheckpointError

from ..checkpointing.manifest import Contents, contents_of, roles_of
from ..checkpointing.store import Write
from ..engine import CheckpointIO, Overrides
from . import snapshot
from .data.factory import make_batches
from .distributed.strategy import DistributedStrategy
from .model_io import ModelIO
from .train_step import TFTrainStep


class TFCheckpoint(CheckpointIO):
    """Takes and restores snapshots of a trainer on TensorFlow.

    Args:
        trainer: Its model, optimizer, schedule and datasets; ``save_model`` is called if it is overridden.
        overrides: The trainer's own methods.
        model_io: Builds a model that has no weights yet.
        strategy: Gathers the random numbers of all processes.
        train_step: Its precision has a state of its own; updates that wait are done first.
    """

    def __init__(
        self,
        trainer: Any,
        overrides: Overrides,
        model_io: ModelIO,
        strategy: DistributedStrategy,
        train_step: TFTrainStep,
    ) -> None:
        self.trainer = trainer
        self.model_io = model_io
        self.strategy = strategy
        self.train_step = train_step
        self._save_model: Callable[[str], None] | None = trainer.save_model if "save_model" in overrides else None

    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        trainer = self.trainer
        self.train_step.queue.flush()
        write_weights = snapshot.weights_writer(trainer.model, copy=copy)
        own = snapshot.random_state(trainer.model)
        states = self.strategy.collectives.gather("the random number states", own)
        files: dict[str, Any] = {snapshot.RNG_FILE.format(rank=rank): state for rank, state in enumerate(states)}
        arrays: dict[str, Any] = {}
        if not trainer.args.save_only_model:
            schedule = trainer.lr_scheduler
            arrays = snapshot.optimizer_arrays(trainer.optimizer)
            files[snapshot.SCHEDULE_FILE] = None if schedule is None else schedule.state_dict()
            files[snapshot.SCALER_FILE] = self.train_step.precision.state_dict() or None

        def write(folder: Path) -> dict[str, str]:
            if self._save_model is not None:
                self._save_model(str(folder))
            if not (folder / snapshot.WEIGHTS_FILE).exists():
                write_weights(folder)
            if arrays:
                np.savez(folder / snapshot.OPTIMIZER_FILE, **arrays)
            own = [snapshot.WEIGHTS_FILE, *([snapshot.OPTIMIZER_FILE] if arrays else [])]
            return {**roles_of(own), **snapshot.write_json(folder, files)}

        return write

    def write_shards(self) -> None:
        """Do nothing: the first process writes everything."""

    def load_snapshot(self, contents: Contents) -> None:
        """Restore what `snapshot` wrote, except the random number generators.

        Raises:
            CheckpointError: If it is the checkpoint of a run with save_only_model.
        """
        trainer = self.trainer
        optimizer = contents.find(snapshot.OPTIMIZER_FILE)
        if optimizer is None:
            raise CheckpointError(
                f"{contents.path} cannot be resumed: it has no {snapshot.OPTIMIZER_FILE}, since it was written with "
                "save_only_model=True. Load the model from it and start afresh"
            )
        self.load_weights(contents)
        snapshot.load_optimizer(trainer.optimizer, optimizer)
        targets = ((snapshot.SCHEDULE_FILE, trainer.lr_scheduler), (snapshot.SCALER_FILE, self.train_step.precision))
        for name, target in targets:
            path = contents.find(name)
            if path is not None and target is not None:
                target.load_state_dict(snapshot.read_json(path))

    def load_random_state(self, folder: Path) -> bool:
        """Restore the random number generators of this rank; return whether the checkpoint holds them."""
        path = contents_of(folder).find(snapshot.RNG_FILE.format(rank=self.strategy.rank))
        if path is None:
            return False
        snapshot.set_random_state(snapshot.read_json(path), self.trainer.model)
        return True

    def load_weights(self, contents: Contents) -> None:
        """Load the weights of a checkpoint, and nothing else."""
        trainer = self.trainer
        if not trainer.model.built:
            dataset = trainer.eval_dataset if trainer.train_dataset is None else trainer.train_dataset
            options = {"batch_size": 1, "seed": 0, "shuffle": False, "drop_last": False}
            batches = None if dataset is None else make_batches(dataset, **options)
            self.model_io.build(batches, self.train_step.precision.policy)
        snapshot.load_weights(trainer.model, contents)

    def save_model(self, output_dir: str | None) -> None:
        """Write the weights into ``output_dir`` as ``model.weights.h5``, which ``load_weights`` of Keras reads."""
        self.train_step.queue.flush()
        if self.trainer.is_world_process_zero():
            folder = Path(output_dir or self.trainer.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            snapshot.weights_writer(self.trainer.model, copy=False)(folder)
