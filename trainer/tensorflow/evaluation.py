"""Evaluating on TensorFlow: which batches, what one compiled step of it is, and how its outputs come to the host.

The methods stand in the order of `trackside.trainer.evaluation.evaluation_loop.Evaluator`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from trackside.callbacks.errors import ArgumentError

from ..evaluation.evaluation_loop import StepResult
from ..evaluation.output_collector import map_nested
from . import data
from .arguments import TFTrainingArguments
from .compiled_step import compiled
from .distributed.strategy import DistributedStrategy
from .model_io import without
from .precision import apply_policy, restore_policies
from .update_queue import UpdateQueue


class Evaluating:
    """The part of a trainer that evaluates and predicts."""

    args: TFTrainingArguments
    model: Any
    eval_dataset: Any
    processes: DistributedStrategy
    queue: UpdateQueue
    trace_counts: Counter[str]
    get_eval_tfdataset: Callable[..., Any]
    get_test_tfdataset: Callable[..., Any]
    distributed_prediction_steps: Callable[..., Any]
    _eval_policy: str | None
    _predictors: dict[Any, Callable[..., Any]]
    _element_spec: Any
    has_own: Callable[..., bool]
    _rows_of: Callable[..., Any]
    _ready_model: Callable[..., None]

    def are_datasets(self, dataset: Any) -> bool:
        """Return whether ``dataset`` is a dict of datasets by their names, and not one dataset of named arrays."""
        return isinstance(dataset, dict) and not any(name in dataset for name in data.LABELS)

    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's own evaluation dataset if it is None."""
        own = self.get_eval_tfdataset if self.has_own("get_eval_tfdataset") else None
        given = self.eval_dataset if dataset is None else dataset
        if given is None and own is None:
            raise ArgumentError("eval_dataset", None, "evaluate() needs an evaluation dataset")
        return self._all_of(given, own, dataset)

    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""
        return self._all_of(dataset, self.get_test_tfdataset if self.has_own("get_test_tfdataset") else None, dataset)

    def _all_of(self, dataset: Any, build: Callable[[Any], Any] | None, given: Any) -> data.Batches:
        options = {"batch_size": self.args.eval_batch_size, "seed": 0, "shuffle": False, "drop_last": False}
        if build is not None:
            batches: data.Batches = data.OwnBatches(lambda epoch: build(given), **options)
        else:
            batches = data.make_batches(dataset, **options)
        self._element_spec = batches.element_spec
        self._evaluated = data.check_finite(batches)
        return batches

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """A context in which the model is in evaluation mode."""
        self.queue.flush()
        self._ready_model(getattr(self, "_evaluated", None))
        before = apply_policy(self.model, self._eval_policy)
        try:
            yield
        finally:
            restore_policies(before)

    def evaluation_step(self, batch: Any, prediction_loss_only: bool, ignore_keys: list[str] | None) -> StepResult:
        """Run one batch through the model."""
        pair = data.pair_of(batch)
        loss, weight, logits = self._predictor(pair)(pair, self._rows_of(pair))
        first, last = self.processes.local_span(data.examples_in(pair))
        features, labels = tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[first:last], pair)
        kept = features if "inputs" in self.args.include_for_metrics else None
        logits = None if prediction_loss_only else on_host_if_cpu(without(logits, ignore_keys))
        return StepResult(loss, weight, logits, labels, last - first, kept)

    def _predictor(self, pair: data.Pair) -> Callable[..., Any]:
        """Return the compiled evaluation step for batches of this kind."""
        spec = self._element_spec
        if spec is None or not _fits(pair, spec):
            spec = tf.nest.map_structure(data._spec_of, pair)
        key = (str(spec), id(self.model))
        if key not in self._predictors:
            rows = None if self.processes.replicas == 1 else tf.TensorSpec((self.processes.local_replicas, 3), tf.int32)
            xla = self.args.xla and rows is None
            predict = compiled("predict", self._predict, [spec, rows], self.trace_counts, xla=xla)
            self._predictors[key] = predict
        return self._predictors[key]

    def _predict(self, pair: Any, rows: Any) -> Any:
        losses, weights, logits = self.distributed_prediction_steps((pair, rows))
        if losses[0] is None:
            return None, 0.0, _joined(logits)
        weight = tf.add_n(weights)
        return tf.add_n(losses) / tf.maximum(weight, 1e-12), weight, _joined(logits)

    def to_host(self, nested: Any) -> Any:
        """Return nested tensors as numpy arrays."""
        return map_nested(lambda leaf: leaf.numpy() if isinstance(leaf, tf.Tensor) else leaf, nested)


def on_host_if_cpu(nested: Any) -> Any:
    """Return tensors that are on the CPU anyway as arrays, which know their size."""

    def convert(leaf: Any) -> Any:
        return leaf.numpy() if isinstance(leaf, tf.Tensor) and "CPU" in leaf.device else leaf

    return map_nested(convert, nested)


def _joined(parts: list[Any]) -> Any:
    """Return the outputs of several replicas as one."""
    if len(parts) == 1:
        return parts[0]
    return tf.nest.map_structure(lambda *leaves: tf.concat(leaves, axis=0), *parts)


def _fits(pair: data.Pair, spec: Any) -> bool:
    """Return whether a batch is one of those that ``spec`` describes."""
    try:
        tf.nest.assert_same_structure(pair, spec)
    except (TypeError, ValueError):
        return False
    leaves = zip(tf.nest.flatten(pair), tf.nest.flatten(spec), strict=True)
    return all(
        leaf is None or (tf.as_dtype(leaf.dtype) == s.dtype and s.shape.is_compatible_with(leaf.shape))
        for leaf, s in leaves
    )
