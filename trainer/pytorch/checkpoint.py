"""What a checkpoint keeps of a trainer on PyTorch, gathered and given back; `snapshot` has the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from trackside.callbacks.errors import CheckpointError

from . import snapshot
from ._torch_util import unwrap
from .arguments import TrainingArguments
from .distributed.strategy import DistributedStrategy
from .precision.base import Precision


class Keeping:
    """The part of a trainer that keeps its state in checkpoints, and takes it back."""

    args: TrainingArguments
    model: nn.Module
    optimizer: Any
    lr_scheduler: Any
    processing_class: Any
    processes: DistributedStrategy
    precision: Precision
    save_model: Callable[..., None]
    has_own: Callable[..., bool]
    gather_objects: Callable[[Any], list[Any]]
    _past: Any

    def snapshot(self, *, copy: bool) -> snapshot.Writer:
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
        own = {**snapshot.random_state(), **self.processes.random_state(), **past}
        states = self.processes.collectives.gather("the random number states", own)
        if copy:
            weights, files = snapshot.copied((weights, files))
        for rank, state in enumerate(states):
            files[snapshot.RNG_FILE.format(rank=rank)] = state

        def write(folder: Path) -> None:
            if is_sharded:
                self._write_share(folder)
                snapshot.write_torch(folder, files)
                return
            if self.has_own("save_model"):
                self.save_model(str(folder))
            if not snapshot.holds_weights(folder):
                self._write_model(folder, weights)
            snapshot.write_torch(folder, files)

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

    def load_snapshot(self, folder: Path) -> None:
        """Take back what `snapshot` wrote, except the random number generators.

        Raises:
            CheckpointError: If it is the checkpoint of a run with save_only_model.
        """
        has_shards = snapshot.has_shards(folder)
        if not has_shards and not (folder / snapshot.OPTIMIZER_FILE).exists():
            raise CheckpointError(
                f"{folder} cannot be resumed: it has no {snapshot.OPTIMIZER_FILE}, since it was written with "
                "save_only_model=True. Load the model from it and start afresh"
            )
        self._load_tensors(folder, self.optimizer)
        if not has_shards:
            snapshot.load_optimizer(self.optimizer, snapshot.read_torch(folder / snapshot.OPTIMIZER_FILE))
        for name, target in (
            (snapshot.SCHEDULE_FILE, self.lr_scheduler),
            (snapshot.SCALER_FILE, self.precision),
        ):
            if (folder / name).exists() and target is not None:
                target.load_state_dict(snapshot.read_torch(folder / name))

    def load_weights(self, folder: Path) -> None:
        """Take the weights, and nothing else, from a checkpoint."""
        self._load_tensors(folder, None)

    def _load_tensors(self, folder: Path, optimizer: Any) -> None:
        if snapshot.has_shards(folder):
            from .distributed.fsdp import load_shards

            load_shards(folder, unwrap(self.model), optimizer)
        elif self.processes.is_sharded:
            from .distributed.fsdp import load_whole

            load_whole(folder, self.model, optimizer)
        else:
            snapshot.load_weights(unwrap(self.model), folder)
