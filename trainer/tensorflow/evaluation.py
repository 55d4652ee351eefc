"""Evaluation in TensorFlow: the batches, one compiled step on each, and moving its outputs to the host."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import tensorflow as tf

from trackside.callbacks.errors import TracksideValueError

from ..base_engine.engine import BaseEngine, EnginePart
from ..engine import EvaluationStep, StepResult
from ..evaluation.checks import dataset_to_evaluate
from ..evaluation.growing_array import PADDING
from ..evaluation.output_collector import map_nested
from ._compat import input_names, keras_mask, sentence_of, with_mask_of
from .compiled_step import rows_of
from .data.factory import check_finite, make_batches
from .data.leaves import examples_in, map_leaves, rows_in, spec_of
from .data.loader import Batches, OwnBatches, num_examples
from .data.readers import LABELS, Pair, pair_of, unweighted
from .data.stateful import check_batch_size
from .distributed.strategy import DistributedStrategy
from .draws.state import DRAWS
from .loss import batch_size, losses_of_outputs, pair_in
from .model_io import ModelIO, without
from .objective._compat import compilation_of
from .objective.compiled_metrics import CompiledMetrics
from .objective.items import MEAN, MISUSE
from .objective.losses_by_name import LossesByName, by_name
from .objective.own_metrics import OwnMetrics
from .objective.sums import mean_of_sums, stacked
from .precision.factory import POLICIES
from .precision.policies import apply_policy, restore_policies
from .tracing import compiled, runs_eagerly
from .train_step import TFTrainStep
from .weights.model_state import undisturbed


class TFEvaluation(EnginePart, EvaluationStep):
    """Runs evaluation batches through a Keras model.

    Args:
        engine: Its trainer's model is evaluated; the methods for datasets and ``distributed_prediction_steps`` are
            called, overridden or not. Its train_step sums losses as in training.
        trace_counts: Number of traces of each function, updated here.
    """

    model_io: ModelIO
    strategy: DistributedStrategy

    def __init__(self, engine: BaseEngine, trace_counts: Counter[str]) -> None:
        super().__init__(engine)
        args = self.trainer.args
        self.train_step: TFTrainStep = cast(TFTrainStep, engine.train_step)
        name = "bf16" if args.bf16_full_eval else "fp16" if args.fp16_full_eval else ""
        self.policy: str | None = POLICIES.get(name)
        self._trace_counts = trace_counts
        self.delay: int | None = None if tf.config.list_logical_devices("GPU") else 0
        self._batches: Batches | None = None
        self._reductions: tuple[str, ...] = (MEAN,)
        self._predictors: dict[Any, Callable[..., Any]] = {}
        self._traced: list[Any] = []
        self._last_spec: tuple[Any, str] = (None, "")
        self._metrics: CompiledMetrics = CompiledMetrics()
        self._own_metrics: OwnMetrics = OwnMetrics()
        self._names: tuple[str, ...] = ()
        self._by_name: LossesByName = LossesByName()

    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's evaluation dataset if it is None."""
        if "get_eval_tfdataset" in self.overrides:
            return self._batches_of(dataset, self.trainer.get_eval_tfdataset)
        return self._batches_of(dataset_to_evaluate(dataset, self.trainer.eval_dataset), None)

    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""
        is_own = "get_test_tfdataset" in self.overrides
        return self._batches_of(dataset, self.trainer.get_test_tfdataset if is_own else None)

    def _batches_of(self, dataset: Any, build: Callable[[Any], Any] | None) -> Batches:
        size = self.trainer.args.eval_batch_size
        if build is None:
            self._batches = make_batches(dataset, batch_size=size)
        else:
            self._batches = OwnBatches(lambda epoch: build(dataset), batch_size=size)
        return check_finite(self._batches)

    def num_examples(self, batches: Any) -> int | None:
        """Return the number of examples in ``batches``; None if it is unknown."""
        return num_examples(batches)

    def is_dict_of_datasets(self, dataset: Any) -> bool:
        """Return whether ``dataset`` is a dict of datasets by name, and not one dataset of named arrays."""
        if not isinstance(dataset, dict) or any(name in dataset for name in LABELS):
            return False
        are_arrays = all(hasattr(part, "shape") for part in dataset.values())
        return not (are_arrays and set(dataset) == set(input_names(self.trainer.model)))

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Return a context in which the model is in evaluation mode."""
        self.train_step.queue.flush()
        self.model_io.build(self._batches, self.train_step.precision.policy)
        if self.strategy.replicas == 1:
            check_batch_size(self._batches, self.trainer.model, "eval")
        model, loss_fn = self.trainer.model, self.trainer.loss_fn
        self._retrace_if_other([compilation_of(model), loss_fn, *self.overrides.on_trainer(), *model.variables])
        self._metrics.begin(self.trainer.model, self.strategy.collectives)
        self._by_name.begin()
        before = apply_policy(self.trainer.model, self.policy)
        try:
            with undisturbed(model), DRAWS.undisturbed(), self._own_metrics.over(model):
                self.strategy.share_states(model)
                yield
        finally:
            restore_policies(before)

    def _retrace_if_other(self, parts: list[Any]) -> None:
        """Forget the traces that were made of other functions of the user's, or other variables, than these."""
        if len(parts) != len(self._traced) or any(map(operator.is_not, parts, self._traced)):
            self.forget_traces()
            self._traced = parts

    def forget_traces(self) -> None:
        """Trace the evaluation step again at its next call."""
        self._predictors.clear()

    def counted(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return ``batches``; all of their examples count."""
        return batches

    def evaluation_step(self, batch: Any, prediction_loss_only: bool, ignore_keys: list[str] | None) -> StepResult:
        """Run one batch through the model."""
        pair = pair_of(batch)
        loss, weight, logits, single = self._predictor(pair)(pair, rows_of(self.strategy, pair))
        self._by_name.add(single)
        self._metrics.has_batches |= pair.labels is not None
        examples = examples_in(pair)
        first, last = self.strategy.local_span(examples)
        if last - first < examples:
            pair = map_leaves(lambda leaf: rows_in(leaf, first, last), pair)
        features, (labels, _) = pair.features, unweighted(pair.labels)
        kept = features if "inputs" in self.trainer.args.include_for_metrics else None
        logits = None if prediction_loss_only else map_nested(_on_host_if_cpu, without(logits, ignore_keys))
        return StepResult(loss, weight, logits, labels, last - first, kept)

    def _predictor(self, pair: Pair) -> Callable[..., Any]:
        """Return the compiled evaluation step for batches with the structure of ``pair``."""
        spec = None if self._batches is None else self._batches.element_spec
        if spec is None or not _fits(pair, spec):
            spec = map_leaves(spec_of, pair)
        if spec is not self._last_spec[0]:
            self._last_spec = spec, str(spec)
        key = (self._last_spec[1], id(self.trainer.model), id(self._metrics.source))
        if key not in self._predictors:
            strategy = self.strategy
            rows = None if strategy.replicas == 1 else tf.TensorSpec((strategy.local_replicas, 3), tf.int32)
            xla, eager = self.trainer.args.xla and rows is None, runs_eagerly(self.trainer.model)
            options: dict[str, Any] = {"xla": xla, "eager": eager}
            predict = compiled("predict", self._predict, [spec, rows], self._trace_counts, strategy, **options)
            self._predictors[key] = predict
        return self._predictors[key]

    def _predict(self, pair: Any, rows: Any) -> Any:
        losses, weights, parts = self.trainer.distributed_prediction_steps((pair, rows))
        logits = _joined(parts, rows)
        if pair.labels is not None and self._metrics.source is not None:
            self._update_metrics(pair.labels, logits, rows)
        if losses[0] is None:
            return None, 0.0, logits, {}
        weight = tf.add_n(weights)
        loss = mean_of_sums(tf.add_n(losses), weight, self._reductions)
        added = len(self._reductions) - len(self._names)
        if not self._names or loss.shape != [len(self._reductions)]:  # a method of the trainer may return another
            return loss, weight, logits, {}
        return loss[:added], weight[:added], logits, by_name(self._names, loss[added:], weight[added:])

    def _update_metrics(self, labels: Any, logits: Any, rows: Any) -> None:
        if rows is not None:  # of all processes
            first, count = rows[0, 0], tf.reduce_sum(rows[:, 2])
            labels = map_leaves(lambda leaf: rows_in(leaf, first, first + count), labels)
        labels, weights = unweighted(labels)
        try:
            self._metrics.update(labels, logits, weights)
        except MISUSE as error:
            said = sentence_of(error)
            raise TracksideValueError(self._metrics.misfit(labels, logits, weights, said)) from error

    # -- traced methods --------------------------------------------------------------------------------------------

    def prediction_step(self, features: Any, labels: Any) -> Any:
        """Return the logits of a batch on one replica, and record its loss."""
        step = self.train_step
        self.model_io.refuse_steps("predict_step" if labels is None else "test_step")
        labels = step.losses.unweighted(labels)
        loss, logits = pair_in(self.trainer.run_model(features, labels, False), self.trainer)
        sums = self.model_io.sums_of(loss if labels is not None else None, logits, features, labels, step.losses)
        if sums is not None:
            single = losses_of_outputs(loss, features)
            self._reductions, self._names = sums.reductions + single.reductions, single.names
            step.losses.add(stacked(sums.totals + single.totals), stacked(sums.weights + single.weights))
        return logits

    def distributed_prediction_steps(self, batch: tuple[Any, Any]) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the sum of the losses, their weight, and the logits for each replica of this process."""
        pair, rows = batch
        size, losses = batch_size(pair), self.train_step.losses

        def on_replica(pair: Any, rows: Any) -> tuple[Any, Any, Any]:
            (features, labels), counts = self.strategy.replica_slice(pair, rows)
            losses.begin(counts)
            with DRAWS.micro_batch(), self._own_metrics.unless_padding(counts):
                logits = self.trainer.prediction_step(features, labels, size)
            return losses.loss, losses.weight, logits

        sums, weights, logits = self.strategy.run(on_replica, (pair, rows))
        local = self.strategy.local
        return local(sums), local(weights), self._local_logits(logits)

    def _local_logits(self, logits: Any) -> list[Any]:
        count = self.strategy.local_replicas
        parts = [self.strategy.local(leaf) for leaf in tf.nest.flatten(logits)]
        return [tf.nest.pack_sequence_as(logits, [part[index] for part in parts]) for index in range(count)]

    # -- to the host ------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """Return the losses of several outputs, and the metrics of the model, over the batches of this evaluation."""
        collectives = self.strategy.collectives
        of_compilation = {**self._by_name.results(collectives), **self._metrics.results(collectives)}
        return {**self._own_metrics.results(), **of_compilation}

    def fetch(self, nested: Any) -> Callable[[], Any]:
        """Return a function that returns nested tensors as numpy arrays.

        bfloat16 becomes float32, ragged tensors are padded, sparse ones dense.
        """
        return partial(map_nested, _to_numpy, nested)

    def for_metrics(self, nested: Any) -> Any:
        """Return nested numpy arrays unchanged, since metrics of Keras take them."""
        return nested


def _to_numpy(leaf: Any) -> Any:
    if isinstance(leaf, tf.RaggedTensor):
        holds_padding = leaf.dtype.is_floating or (leaf.dtype.is_integer and not leaf.dtype.is_unsigned)
        leaf = leaf.to_tensor(PADDING if holds_padding else None)
    elif isinstance(leaf, tf.SparseTensor):
        leaf = tf.sparse.to_dense(leaf)
    if not isinstance(leaf, tf.Tensor):
        return leaf
    return (tf.cast(leaf, tf.float32) if leaf.dtype == tf.bfloat16 else leaf).numpy()


def _on_host_if_cpu(leaf: Any) -> Any:
    """Return a tensor on the CPU as an array, whose size is known; others unchanged."""
    return leaf.numpy() if isinstance(leaf, tf.Tensor) and "CPU" in leaf.device else leaf


def _joined(parts: list[Any], rows: Any) -> Any:
    """Return the outputs of several replicas as one, without those of replicas whose ``rows`` do not count."""
    if rows is None:
        return parts[0]

    def join(*leaves: Any) -> Any:
        arrays = [leaf if leaf.shape.rank else tf.reshape(leaf, [1]) for leaf in leaves]
        sizes = [tf.where(rows[index, 2] > 0, tf.shape(array)[0], 0) for index, array in enumerate(arrays)]
        joined = tf.concat([array[:size] for array, size in zip(arrays, sizes, strict=True)], axis=0)
        masks = list(map(keras_mask, leaves))
        return joined if None in masks else with_mask_of(SimpleNamespace(_keras_mask=join(*masks)), joined)

    return tf.nest.map_structure(join, *parts)


def _fits(pair: Pair, spec: Any) -> bool:
    """Return whether a batch matches ``spec``."""
    try:
        tf.nest.assert_same_structure(pair, spec)
    except (TypeError, ValueError):
        return False
    leaves = zip(tf.nest.flatten(pair), tf.nest.flatten(spec), strict=True)
    return all(
        leaf is None or (tf.as_dtype(leaf.dtype) == s.dtype and s.shape.is_compatible_with(leaf.shape))
        for leaf, s in leaves
    )
