"""Checkpoint contents of a PyTorch run: taking, writing and restoring them; `snapshot` has the files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..base_engine.checkpoint import BaseCheckpoint
from ..base_engine.unsaved import Marks
from ..checkpointing.manifest import Contents, roles_of
from ..checkpointing.saving.host_buffers import Buffers, HostBuffers, pageable
from ..checkpointing.store import Write
from ..optim.resuming import fresh_note
from . import snapshot
from ._torch_util import NULL_CONTEXT, unwrap
from .distributed.strategy import DistributedStrategy
from .host_copy import copied, pinned
from .optim.factory import include_new_groups
from .optim.frozen import flags_of
from .preparation.own_randomness import own_generators, set_states, states_of
from .preparation.unsaved import marks_of
from .weights.export import ModelWriter
from .weights.files import weights_in
from .weights.loading import load_weights
from .weights.names import plainly_named

logger: logging.Logger = logging.getLogger("trackside.trainer")


class TorchCheckpoint(BaseCheckpoint):
    """Takes and restores snapshots of a trainer on PyTorch."""

    strategy: DistributedStrategy
    optimizer_file = "optimizer.pt"
    suffix = ".pt"
    _weights_in = staticmethod(weights_in)
    _copied = staticmethod(copied)
    _write_file = staticmethod(snapshot.write_torch)
    _as_data = staticmethod(snapshot.as_data)
    _outline = staticmethod(snapshot.outline)
    _read_file = staticmethod(snapshot.read_torch)

    def _marks(self) -> Marks:
        return marks_of(self.trainer, self._model)

    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes weights, optimizer, schedule, loss scale and random numbers into a folder."""
        mode, made = self.train_step.optimizer_mode, self.engine.made
        if made is not None:
            made.record["trainable"]["now"] = flags_of(self._model)
        with mode.evaluating():
            return super().snapshot(copy=copy or self.strategy.must_copy or mode.exists)

    def save_model(self, output_dir: str | None) -> None:
        """Write the weights and the other files of the model into ``output_dir``, where ``args.should_save``."""
        with self.train_step.optimizer_mode.evaluating():
            super().save_model(output_dir)

    def write_shards(self) -> None:
        """Write this process's shards, if any, of the checkpoint that the first process is writing."""
        if self.strategy.is_sharded:
            self._write_shards(None)

    @property
    def _model(self) -> Any:
        return unwrap(self.trainer.model)

    def _new_buffers(self) -> HostBuffers:
        return HostBuffers(pinned if self.trainer.args.device.type == "cuda" else pageable)

    def _model_writer(self, buffers: Buffers | None) -> ModelWriter:
        model = self._model
        weights = None if buffers is not None else self.strategy.full_weights(self.trainer.model)
        if weights is None:
            weights = {n: w for n, w in model.state_dict(keep_vars=True).items() if not nn.parameter.is_lazy(w)}
        weights = weights if buffers is None else copied(weights, buffers)
        processing_class = self.trainer.processing_class
        if processing_class is None:
            processing_class = getattr(self.trainer.data_collator, "tokenizer", None)
        return ModelWriter(model, plainly_named(weights), processing_class)

    def _complete(self, folder: Path, write_model: Any) -> None:
        if self._weights_in(folder):
            write_model.complete(folder)
        else:
            write_model(folder, is_final=False)

    def _write_weights(self, folder: Path, write_model: Callable[[Path], None] | None) -> dict[str, str]:
        if not self.strategy.is_sharded:
            is_live = "save_model" in self.overrides  # otherwise copies are written, perhaps in the background
            with self.train_step.optimizer_mode.evaluating() if is_live else NULL_CONTEXT:
                return super()._write_weights(folder, write_model)
        self._write_shards(folder)
        return roles_of(f"{snapshot.SHARDS}/{name}" for name in os.listdir(folder / snapshot.SHARDS))

    def _write_shards(self, folder: Path | None) -> None:
        from .distributed.fsdp import write_shards

        optimizer = None if self.trainer.args.save_only_model else self.trainer.optimizer
        shared: Any = self.strategy.collectives.gather("the folder of the shards", folder)[0]
        with self.train_step.optimizer_mode.evaluating():
            write_shards(shared, self.trainer.model, optimizer)

    def load_weights(self, contents: Contents) -> None:
        """Load only the weights of a checkpoint."""
        self.train_step.optimizer_mode.eval()  # they are those of evaluation
        super().load_weights(contents)

    def _load_weights(self, contents: Contents, optimizer: Any) -> None:
        if contents.names("shards"):
            from .distributed.fsdp import load_shards

            fresh = load_shards(contents, self._model, optimizer)
            for note in fresh_note(fresh) if self.trainer.state.is_world_process_zero else ():
                logger.warning("resuming: %s", note)
        elif self.strategy.is_sharded:
            from .distributed.fsdp import load_whole

            load_whole(contents, self.trainer.model, optimizer)
        else:
            load_weights(self._model, contents)

    def _optimizer_state(self) -> Any:
        if self.strategy.is_sharded:
            return None
        state, late = snapshot.optimizer_state(self.trainer.optimizer), self.train_step.parameters.late
        made: Any = self.engine.made
        extra = {snapshot.LATE: [list(place) for place in late], snapshot.ADDED: [] if made is None else made.added}
        return {**state, **{name: value for name, value in extra.items() if value}}

    def _read_optimizer(self, path: Path) -> Any:
        state = snapshot.read_torch(path)
        if isinstance(state, dict):
            self.train_step.parameters.add(state.get(snapshot.LATE, ()))
            self.train_step.parameters.add_groups(state.get(snapshot.ADDED, ()))
            include_new_groups(self.trainer.lr_scheduler)
        return state

    def _optimizer_outline(self) -> Any:
        return self._optimizer_state()

    @property
    def _is_on_host(self) -> bool:
        return bool(self.trainer.args.device.type == "cpu")

    def sizes_needed(self) -> list[int]:
        """Return the bytes of each weight and, if known, of the optimizer's state; empty for a sharded model."""
        if self.strategy.is_sharded:
            return []
        weights = snapshot.sizes_of(self._model.state_dict(keep_vars=True))
        is_whole = not self.trainer.args.save_only_model
        return weights + (snapshot.optimizer_sizes(self.trainer.optimizer) if is_whole else [])

    def _random_state(self) -> dict[str, Any]:
        past = {} if self.model_io.past is None else {"past": copied(self.model_io.past)}
        own = states_of(self._own_generators())
        return {**snapshot.random_state(), **self.strategy.random_state(), **past, **({"own": own} if own else {})}

    def _set_random_state(self, state: dict[str, Any]) -> None:
        snapshot.set_random_state(state)
        self.strategy.set_random_state(state)
        set_states(self._own_generators(), state.get("own", ()))
        self.model_io.past = None if state.get("past") is None else self.train_step.place(state["past"])

    def _own_generators(self) -> list[Any]:
        trainer = self.trainer
        others = (trainer.loss_fn, type(trainer).compute_loss, trainer.train_dataset, trainer.data_collator)
        return own_generators(self._model, *others)
