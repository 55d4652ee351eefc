"""Evaluating in PyTorch: which batches, what one step of it is, and how its outputs come to the host.

The methods stand in the order of `trackside.trainer.evaluation.evaluation_loop.Evaluator`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..evaluation.evaluation_loop import StepResult
from ..evaluation.output_collector import are_texts, map_nested
from ._torch_util import unwrap
from .data import factory as data
from .distributed.strategy import DistributedStrategy
from .loss import count_items
from .model_io import labels_of
from .precision.eval_mode import eval_mode
from .train_step import Objective


class TrainBatch(NamedTuple):
    """A micro-batch of this process: its inputs, and its examples here and on all processes together."""

    inputs: Any
    examples: int
    examples_of_all: int


class Evaluating(Objective):
    """The part of a trainer that takes evaluation batches through the model."""

    processes: DistributedStrategy
    get_eval_dataloader: Callable[..., Iterable[Any]]
    get_test_dataloader: Callable[..., Iterable[Any]]
    prediction_step: Callable[..., tuple[Any, Any, Any]]
    place: Callable[[Any], Any]
    _eval_dtype: torch.dtype | None

    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's own evaluation dataset if it is None."""
        return self.get_eval_dataloader(dataset)

    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""
        return self.get_test_dataloader(dataset)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Return a context in which the model is in evaluation mode; the memory of ``past_index`` begins anew in it."""
        self.processes.move(self.model, self.args.device)
        past = self._past
        self._know_model()
        self.processes.share_buffers(unwrap(self.model))
        try:
            with eval_mode(self.model, self._eval_dtype):
                yield
        finally:
            self._past = past

    def counted(self, batches: Iterable[Any]) -> Iterator[TrainBatch]:
        """Return the batches with the examples of each that count."""
        pairs = data.counted(batches, rank=self.processes.rank, world_size=self.processes.world_size)
        return (TrainBatch(inputs, *counts) for inputs, counts in pairs)

    def evaluation_step(
        self, batch: TrainBatch, prediction_loss_only: bool, ignore_keys: list[str] | None
    ) -> StepResult:
        """Run one batch through the model."""
        placed = self.place(batch.inputs)
        inputs = self._lowered(placed)
        self._window.begin(0, 2)  # as one of several, so that its items are counted
        self._is_padding = batch.examples == 0
        self._items: Any = None
        loss, logits, labels = self.prediction_step(self.model, inputs, prediction_loss_only, ignore_keys)
        weight = count_items(labels, inputs, is_causal=self._is_causal) if self._items is None else self._items
        if inputs is not placed and labels is not None and not self.has_own("prediction_step"):
            labels = labels_of(placed, self.label_names)  # for the metrics, as they are in the dataset
        kept = self._main_input(placed) if "inputs" in self.args.include_for_metrics else None
        self.processes.end_step()
        return StepResult(loss, weight, logits, labels, batch.examples, kept)

    def _main_input(self, inputs: Any) -> Any:
        """Return what a transformers model calls its main input; the whole batch for other models."""
        name = getattr(unwrap(self.model), "main_input_name", None)
        return inputs[name] if isinstance(inputs, Mapping) and name in inputs else inputs

    def _lowered(self, inputs: Any) -> Any:
        """Return inputs in the precision of a full evaluation in bf16 or fp16."""
        dtype = self._eval_dtype
        if dtype is None:
            return inputs
        lower = map_nested(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)
        return dict(lower) if isinstance(inputs, dict) else lower

    def to_host(self, nested: Any) -> Any:
        """Return nested tensors as numpy arrays; bfloat16, which numpy does not have, as float32."""
        return map_nested(_to_numpy, nested)


def _to_numpy(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return np.array(leaf) if are_texts(leaf) else leaf
    leaf = leaf.detach()
    return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).cpu().numpy()
