"""What a checkpoint keeps of a trainer on TensorFlow, gathered and given back; `snapshot` has the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trackside.callbacks.errors import CheckpointError

from ..checkpointing.manager import Saver
from ..checkpointing.manifest import Contents, roles_of
from ..checkpointing.store import Write
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
    saver: Saver
    queue: UpdateQueue
    save_model: Callable[..., None]
    has_own: Callable[..., bool]
    _ready_model: Callable[..., None]
    _all_of: Callable[..., Any]

    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        self.queue.flush()
        saves_in_its_own_way = self.has_own("save_model")
        write_weights = snapshot.weights_writer(self.model, copy=copy)
        states = self.processes.gather_objects(snapshot.random_state(self.model))
        files: dict[str, Any] = {snapshot.RNG_FILE.format(rank=rank): state for rank, state in enumerate(states)}
        arrays: dict[str, Any] = {}
        if not self.args.save_only_model:
            arrays = snapshot.optimizer_arrays(self.optimizer)
            files[snapshot.SCHEDULE_FILE] = None if self.lr_scheduler is None else self.lr_scheduler.state_dict()
            files[snapshot.SCALER_FILE] = self.precision.state_dict() or None

        def write(folder: Path) -> dict[str, str]:
            if saves_in_its_own_way:
                self.save_model(str(folder))
            if not (folder / snapshot.WEIGHTS_FILE).exists():
                write_weights(folder)
            if arrays:
                np.savez(folder / snapshot.OPTIMIZER_FILE, **arrays)
            own = [snapshot.WEIGHTS_FILE, *([snapshot.OPTIMIZER_FILE] if arrays else [])]
            return {**roles_of(own), **snapshot.write_json(folder, files)}

        return write

    def load_snapshot(self, checkpoint: Contents) -> None:
        """Take back what `snapshot` wrote, except the random number generators.

        Raises:
            CheckpointError: If it is the checkpoint of a run with save_only_model.
        """
        optimizer = checkpoint.find(snapshot.OPTIMIZER_FILE)
        if optimizer is None:
            raise CheckpointError(
                f"{checkpoint.path} cannot be resumed: it has no {snapshot.OPTIMIZER_FILE}, since it was written with "
                "save_only_model=True. Load the model from it and start afresh"
            )
        self._load_weights(checkpoint)
        snapshot.load_optimizer(self.optimizer, optimizer)
        for name, target in ((snapshot.SCHEDULE_FILE, self.lr_scheduler), (snapshot.SCALER_FILE, self.precision)):
            path = checkpoint.find(name)
            if path is not None and target is not None:
                target.load_state_dict(snapshot.read_json(path))

    def load_weights(self, folder: str | Path) -> None:
        """Take the weights, and nothing else, from a checkpoint, which is verified, or from what `save_model` wrote.

        Raises:
            CheckpointError: If it does not verify (a BrokenCheckpointError), or the weights do not fit the model.
        """
        self._load_weights(self.saver.open(folder))

    def _load_weights(self, checkpoint: Contents) -> None:
        if not self.model.built:
            dataset = self.train_dataset if self.train_dataset is not None else self.eval_dataset
            self._ready_model(None if dataset is None else self._all_of(dataset, None, None))
        snapshot.load_weights(self.model, checkpoint)
