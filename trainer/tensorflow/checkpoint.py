"""Checkpoint contents of a TensorFlow run: taking, writing and restoring them; `snapshot` has the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from trackside.callbacks.errors import BusyError

from ..base_engine.checkpoint import BaseCheckpoint
from ..base_engine.engine import BaseEngine
from ..base_engine.unsaved import Marks
from ..checkpointing.manifest import Contents
from ..checkpointing.saving.host_buffers import Buffers
from . import snapshot
from .data.factory import make_batches
from .distributed.strategy import DistributedStrategy
from .weights.keras_files import write_keras_model, write_keras_weights
from .weights.unsaved import marks_of


class TFCheckpoint(BaseCheckpoint):
    """Takes and restores snapshots of a trainer on TensorFlow; queued updates run first."""

    strategy: DistributedStrategy
    optimizer_file = "optimizer.npz"
    suffix = ".json"
    _weights_in = staticmethod(snapshot.weights_in)
    _write_file = staticmethod(snapshot.write_file)
    _read_file = staticmethod(snapshot.read_file)
    _as_data = staticmethod(snapshot.as_data)

    def __init__(self, engine: BaseEngine) -> None:
        super().__init__(engine)
        self.evaluation: Any = engine.evaluation

    def _marks(self) -> Marks:
        self.train_step.queue.flush()
        return marks_of(self.trainer, self.trainer.model)

    def _save_model(self, folder: Path) -> None:
        """Write the present weights and the model in the formats of Keras."""
        self.train_step.queue.flush()
        if self.trainer.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            write_keras_weights(self.trainer.model, folder)
            write_keras_model(self.trainer.model, folder)

    def write_shards(self) -> None:
        """Do nothing: the processes that write checkpoints write everything."""

    def _model_writer(self, buffers: Buffers | None) -> Callable[[Path], None]:
        self.train_step.queue.flush()
        return snapshot.weights_writer(self.trainer.model, buffers)

    def _complete(self, folder: Path, write_model: Callable[[Path], None], /) -> None:
        if not (folder / snapshot.WEIGHTS_FILE).exists():  # Keras' own file lacks state
            write_model(folder)

    def _copied(self, files: dict[str, Any], buffers: Buffers, /) -> dict[str, Any]:
        arrays = files.get(self.optimizer_file)
        return files if arrays is None else {**files, self.optimizer_file: snapshot.copied(arrays, buffers)}

    def _load_weights(self, contents: Contents, optimizer: Any) -> None:
        trainer = self.trainer
        if not trainer.model.built:
            args, dataset = trainer.args, trainer.train_dataset
            size = args.train_batch_size if dataset is not None else args.eval_batch_size
            dataset = trainer.eval_dataset if dataset is None else dataset
            batches = None if dataset is None else make_batches(dataset, batch_size=size)
            self.model_io.build(batches, self.train_step.precision.policy)
        snapshot.load_weights(trainer.model, contents)
        self.evaluation.forget_traces()  # a layer may have made constants of its weights, such as Normalization

    def load_snapshot(self, contents: Contents, before: Mapping[str, Any] | None, step: int) -> None:
        """Restore what `snapshot` wrote, and which layers callbacks had frozen or unfrozen by then."""
        with self.strategy.scope():
            super().load_snapshot(contents, before, step)
        self.train_step.may_be_other = True

    def _optimizer_state(self) -> Any:
        return snapshot.optimizer_arrays(self.trainer.optimizer)

    def _read_optimizer(self, path: Path) -> Any:
        return path

    def _optimizer_outline(self) -> Any:
        return snapshot.optimizer_outline(self.trainer.optimizer)

    @property
    def _is_on_host(self) -> bool:
        return not tf.config.list_logical_devices("GPU")

    def sizes_needed(self) -> list[int]:
        """Return the bytes of each variable of the model and of its optimizer, as far as they exist."""
        optimizer = [] if self.trainer.args.save_only_model else [self.trainer.optimizer]
        return snapshot.sizes_of(self.trainer.model, *optimizer)

    def _random_state(self) -> dict[str, Any]:
        if tf.inside_function():
            raise BusyError(
                "evaluate() and predict() cannot be called within a function that TensorFlow traces, such as "
                "compute_loss or training_step, since nothing has a value there. Call them in a callback, or turn "
                "tracing off with tf.config.run_functions_eagerly(True)"
            )
        self.train_step.queue.flush()
        outside = self.train_step.compiled.outside.value() if self.train_step.compiled is not None else []
        return {**snapshot.random_state(self.trainer.model), "outside": outside}

    def _set_random_state(self, state: dict[str, Any]) -> None:
        snapshot.set_random_state(state, self.trainer.model)
        if self.train_step.compiled is not None:
            self.train_step.compiled.outside.restore(state.get("outside", []))  # earlier versions left it out
