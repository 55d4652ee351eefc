"""What a checkpoint keeps of a trainer on TensorFlow, gathered and given back; `snapshot` has the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trackside.callbacks.errors import CheckpointError

from . import snapshot
from .arguments import TFTrainingArguments
from .distributed.strategy import DistributedStrategy
from .precision import FullPrecision
from .update_queue import UpdateQueue


class Keeping:
    """The part of a trainer that keeps its state in checkpoints, and takes it back."""

    args: TFTrainingArguments
    model: Any
    train_dataset: Any
    eval_dataset: Any
    optimizer: Any
    lr_scheduler: Any
    processes: DistributedStrategy
    precision: FullPrecision
    queue: UpdateQueue
    save_model: Callable[..., None]
    has_own: Callable[..., bool]
    _ready_model: Callable[..., None]
    _all_of: Callable[..., Any]

    def snapshot(self, *, copy: bool) -> snapshot.Writer:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        self.queue.flush()
        saves_in_its_own_way = self.has_own("save_model")
        write_weights = snapshot.weights_writer(self.model, copy=copy)
        states = self.processes.collectives.gather("the random number states", snapshot.random_state(self.model))
        files: dict[str, Any] = {snapshot.RNG_FILE.format(rank=rank): state for rank, state in enumerate(states)}
        arrays: dict[str, Any] = {}
        if not self.args.save_only_model:
            arrays = snapshot.optimizer_arrays(self.optimizer)
            files[snapshot.SCHEDULE_FILE] = None if self.lr_scheduler is None else self.lr_scheduler.state_dict()
            files[snapshot.SCALER_FILE] = self.precision.state_dict() or None

        def write(folder: Path) -> None:
            if saves_in_its_own_way:
                self.save_model(str(folder))
            if not (folder / snapshot.WEIGHTS_FILE).exists():
                write_weights(folder)
            if arrays:
                np.savez(folder / snapshot.OPTIMIZER_FILE, **arrays)
            snapshot.write_json(folder, files)

        return write

    def load_snapshot(self, folder: Path) -> None:
        """Take back what `snapshot` wrote, except the random number generators.

        Raises:
            CheckpointError: If it is the checkpoint of a run with save_only_model.
        """
        path = folder / snapshot.OPTIMIZER_FILE
        if not path.exists():
            raise CheckpointError(
                f"{folder} cannot be resumed: it has no {path.name}, since it was written with save_only_model=True. "
                "Load the model from it and start afresh"
            )
        self.load_weights(folder)
        snapshot.load_optimizer(self.optimizer, path)
        for name, target in ((snapshot.SCHEDULE_FILE, self.lr_scheduler), (snapshot.SCALER_FILE, self.precision)):
            if (folder / name).exists() and target is not None:
                target.load_state_dict(snapshot.read_json(folder / name))

    def load_weights(self, folder: Path) -> None:
        """Take the weights, and nothing else, from a checkpoint."""
        if not self.model.built:
            dataset = self.train_dataset if self.train_dataset is not None else self.eval_dataset
            self._ready_model(None if dataset is None else self._all_of(dataset, None, None))
        snapshot.load_weights(self.model, Path(folder))
