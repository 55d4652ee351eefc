"""What a checkpoint keeps of a trainer on PyTorch, gathered and given back; `snapshot` has the files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from trackside.callbacks.errors import CheckpointError

from ..checkpointing.manager import Saver
from ..checkpointing.manifest import Contents, roles_of
from ..checkpointing.store import Write
from . import snapshot
from .arguments import TrainingArguments
from .distributed.strategy import Alone, unwrap
from .precision.factory import FullPrecision


class Keeping:
    """The part of a trainer that keeps its state in checkpoints, and takes it back."""

    args: TrainingArguments
    model: nn.Module
    optimizer: Any
    lr_scheduler: Any
    processing_class: Any
    processes: Alone
    precision: FullPrecision
    saver: Saver
    save_model: Callable[..., None]
    has_own: Callable[..., bool]
    gather_objects: Callable[[Any], list[Any]]
    _past: Any

    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        is_sharded = self.processes.is_sharded
        copy = copy or self.processes.must_copy
        weights: dict[str, Any] | None = unwrap(self.model).state_dict(keep_vars=True) if copy else None
        files: dict[str, Any] = {}
        if not self.args.save_only_model:
            files = {
                snapshot.OPTIMIZER_FILE: None if is_sharded else self.optimizer.state_dict(),
                snapshot.SCHEDULE_FILE: None if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
                snapshot.SCALER_FILE: self.precision.state_dict() or None,
            }
        past = {} if self._past is None else {"past": snapshot.copied(self._past)}
        states = self.processes.gather_objects({**snapshot.random_state(), **self.processes.random_state(), **past})
        if copy:
            weights, files = snapshot.copied((weights, files))
        for rank, state in enumerate(states):
            files[snapshot.RNG_FILE.format(rank=rank)] = state

        def write(folder: Path) -> dict[str, str]:
            if is_sharded:
                self._write_share(folder)
                roles = roles_of(f"{snapshot.SHARDS}/{name}" for name in os.listdir(folder / snapshot.SHARDS))
                return {**roles, **snapshot.write_torch(folder, files)}
            if self.has_own("save_model"):
                self.save_model(str(folder))
            if not snapshot.weights_in(folder):
                self._write_model(folder, weights)
            return {**dict.fromkeys(snapshot.weights_in(folder), "weights"), **snapshot.write_torch(folder, files)}

        return write

    def write_share(self) -> None:
        """Write what this process adds to the checkpoint that the first one is writing: its shards, if it has any."""
        if self.processes.is_sharded:
            self._write_share(None)

    def _write_share(self, folder: Path | None) -> None:
        from .distributed.fsdp import write_shards

        optimizer = None if self.args.save_only_model else self.optimizer
        write_shards(self.gather_objects(folder)[0], self.model, optimizer)

    def _write_model(self, folder: Path, weights: dict[str, Any] | None) -> None:
        snapshot.save_weights(unwrap(self.model), folder, weights)
        if hasattr(self.processing_class, "save_pretrained"):
            self.processing_class.save_pretrained(folder)

    def load_snapshot(self, checkpoint: Contents) -> None:
        """Take back what `snapshot` wrote, except the random number generators.

        Raises:
            CheckpointError: If it is the checkpoint of a run with save_only_model.
        """
        optimizer = checkpoint.find(snapshot.OPTIMIZER_FILE)
        if optimizer is None and not checkpoint.names("shards"):
            raise CheckpointError(
                f"{checkpoint.path} cannot be resumed: it has no {snapshot.OPTIMIZER_FILE}, since it was written with "
                "save_only_model=True. Load the model from it and start afresh"
            )
        self._load_tensors(checkpoint, self.optimizer)
        if optimizer is not None:
            snapshot.load_optimizer(self.optimizer, snapshot.read_torch(optimizer))
        for name, target in (
            (snapshot.SCHEDULE_FILE, self.lr_scheduler),
            (snapshot.SCALER_FILE, self.precision),
        ):
            path = checkpoint.find(name)
            if path is not None and target is not None:
                target.load_state_dict(snapshot.read_torch(path))

    def load_weights(self, folder: str | Path) -> None:
        """Take the weights, and nothing else, from a checkpoint, which is verified, or from what `save_model` wrote.

        Raises:
            CheckpointError: If it does not verify (a BrokenCheckpointError), or the weights do not fit the model.
        """
        self._load_tensors(self.saver.open(folder), None)

    def _load_tensors(self, checkpoint: Contents, optimizer: Any) -> None:
        if checkpoint.names("shards"):
            from .distributed.fsdp import load_shards

            load_shards(checkpoint, unwrap(self.model), optimizer)
        elif self.processes.is_sharded:
            from .distributed.fsdp import load_whole

            load_whole(checkpoint, self.model, optimizer)
        else:
            snapshot.load_weights(unwrap(self.model), checkpoint)
