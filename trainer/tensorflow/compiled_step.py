"""Compiled training functions of a run, and the numbers that they keep on the device.

If no callback listens inside an update, the update is one function, from the batches to the new weights; if no callback
listens between updates either, several updates are one function. Otherwise the same operations run separately. Each
function is traced a fixed number of times.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from ..train_step import TrainBatch
from ._compat import flat_call
from .data.leaves import examples_in, map_leaves, stacked_spec
from .data.readers import HeldReader, IteratorReader, Pair, Reader, inputs_of, joined
from .distributed.strategy import DistributedStrategy
from .draws.outside import Outside
from .loss import FiniteLosses
from .objective.items import sum_dtype
from .tracing import compiled, runs_eagerly

logger: logging.Logger = logging.getLogger("trackside.trainer")

LEARNING_RATE: Any = tf.TensorSpec((), tf.float32)

BatchIn = Callable[[Any, Any], Pair]
"""Returns the batch with an index of those that a reader took."""


class CompiledStep:
    """The training functions of one run.

    Args:
        step: The `TFTrainStep` whose methods, and those of its trainer, are traced. Its strategy runs them on
            replicas; its arguments select compilation by XLA, and whether the mean so far replaces a non-finite loss of
            an update.
        spec: A Pair of nested tf.TensorSpec, the structure of a micro-batch.
        trace_counts: Number of traces of each function, updated here.

    Attributes:
        grad_norm: Joint norm of the last update's gradients before clipping.
        loss: The loss of the update in pieces whose gradients are complete; added to the sums by `apply` or `record`.
        counted: Whether anything counted in that update.
        learning_rate: The learning rate of the last update by the optimizer's own schedule.
        last_norm: ``grad_norm`` at the last call of `take_loss`.
        finite: Counts the updates, and those up to the first whose loss is not finite.
        watched: Another sum of the losses, each as it was computed; None if no callback asked before the first update.
        accumulators: Gradients, loss sum and weight of the update in progress; empty until an update runs in pieces.
        outside: The variables outside of the model that the functions change.
    """

    def __init__(self, step: Any, spec: Any, trace_counts: Counter[str]) -> None:
        strategy: DistributedStrategy = step.strategy
        self.grad_norm: Any = tf.Variable(0.0, dtype=tf.float32, trainable=False)
        self.learning_rate: Any = tf.Variable(0.0, dtype=tf.float32, trainable=False)
        self.loss: Any = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.counted: Any = tf.Variable(True, trainable=False)
        self.last_norm: float = 0.0
        self.finite: FiniteLosses = FiniteLosses(step)
        self.accumulators: list[Any] = []
        self.outside: Outside = Outside(step)
        self._step = step
        self._strategy = strategy
        self._spec = spec
        self._trace_counts = trace_counts
        self._eager = runs_eagerly(step.trainer.model)
        self._xla = step.trainer.args.xla and strategy.replicas == 1 and not self._eager
        self._skip_non_finite = step.trainer.args.logging_nan_inf_filter
        self._loss_total = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._updates_in_total = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self._empty = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.watched: Any = None
        self._rows = None if strategy.replicas == 1 else tf.TensorSpec((None, strategy.local_replicas, 3), tf.int32)
        if step.trainer.args.xla and strategy.replicas > 1:
            logger.warning("xla=True is left out: it compiles the step of one replica, and there are several")
        self.renew()

    def renew(self) -> None:
        """Make the functions anew, since they are traced for the variables that are trained."""
        self.accumulators = []
        self._whole: dict[tuple[type, int, bool], Callable[..., Any]] = {}
        self._update = tf.function(self._update_once, jit_compile=True) if self._xla else self._update_once
        rows = None if self._rows is None else tf.TensorSpec(self._rows.shape[1:], tf.int32)
        self._begin = self._compiled("accumulate", self._accumulate_with("assign"), [self._spec, rows])
        self._go_on = self._compiled("accumulate", self._accumulate_with("assign_add"), [self._spec, rows])
        self._normalize = self._compiled("normalize", self._normalize_once, [])
        self._apply = self._compiled("apply", self._apply_once, [LEARNING_RATE])
        self.record = self._compiled("record", self._record_held, [])

    # -- a whole update -------------------------------------------------------------------------------------------

    def update(self, window: Sequence[TrainBatch], learning_rate: float) -> Any:
        """Do an update; return whether it was skipped, still on the device."""
        length, reader = len(window), window[0].inputs
        if not isinstance(reader, IteratorReader):
            reader = HeldReader([inputs_of(batch) for batch in window], self._spec)
        key = (type(reader), length, False)
        if key not in self._whole:
            signature = [reader.signature, self._rows, LEARNING_RATE]
            self._whole[key] = self._compiled("update", self._one_of(reader.batch_in, length), signature)
        self.finite.done += 1
        return self._whole[key](reader.take(length), self._rows_of(window), learning_rate)

    def queued(self, updates: Sequence[tuple[Sequence[TrainBatch], float]]) -> None:
        """Do queued updates in one call."""
        if len(updates) > 1:
            self.updates(updates)
        else:
            self.update(*updates[0])

    def updates(self, updates: Sequence[tuple[Sequence[TrainBatch], float]]) -> None:
        """Do several updates of as many micro-batches in one call, each given by micro-batches and a learning rate."""
        windows = [window for window, _ in updates]
        length, first = len(windows[0]), windows[0][0]
        reader = first.inputs
        if not isinstance(reader, Reader):
            held = [batch.inputs for window in windows for batch in window]
            reader = joined(held, first.examples_of_all, self._spec)
        key = (type(reader), length, True)
        if key not in self._whole:
            signature = [reader.signature, map_leaves(stacked_spec, self._rows), stacked_spec(LEARNING_RATE)]
            self._whole[key] = self._compiled("updates", self._several_of(reader.batch_in, length), signature)
        self.finite.done += len(windows)
        rows = None if self._rows is None else np.stack([self._rows_of(window) for window in windows])
        rates = np.asarray([learning_rate for _, learning_rate in updates], dtype=np.float32)
        self._whole[key](reader.take(length * len(windows)), rows, rates)

    def _rows_of(self, window: Sequence[TrainBatch]) -> Any:
        if self._rows is None:
            return None
        return np.stack([self._strategy.rows(batch.examples_of_all) for batch in window])

    def _one_of(self, batch_in: BatchIn, length: int) -> Callable[..., Any]:
        def update(taken: Any, rows: Any, learning_rate: Any) -> Any:
            return self._update(_window(batch_in, taken, 0, length), rows, learning_rate)

        return update

    def _several_of(self, batch_in: BatchIn, length: int) -> Callable[..., Any]:
        def updates(taken: Any, rows: Any, learning_rates: Any) -> None:
            def body(index: Any) -> tuple[Any]:
                window = _window(batch_in, taken, index * length, length)
                self._update(window, None if rows is None else rows[index], learning_rates[index])
                return (index + 1,)

            tf.while_loop(lambda index: index < tf.size(learning_rates), body, (tf.constant(0),))

        return updates

    def _update_once(self, window: Any, rows: Any, learning_rate: Any) -> Any:
        self._set_learning_rate(learning_rate)
        self._step.counted = ()
        loss, norm, skipped = self._step.trainer.distributed_training_steps((window, rows))
        self._record(tf.cast(loss, tf.float64), self._step.counted)
        self.grad_norm.assign(tf.cast(norm, tf.float32))
        return skipped

    # -- an update in pieces --------------------------------------------------------------------------------------

    def accumulate(self, pair: Pair, is_first: bool) -> None:
        """Add the gradients, the loss and the weight of a micro-batch to the accumulators."""
        if not self.accumulators:
            self._make_accumulators()
        (self._begin if is_first else self._go_on)(pair, rows_of(self._strategy, pair))

    def normalize(self) -> Any:
        """Normalize and clip the accumulated gradients; return their norm before clipping."""
        self.finite.done += 1
        return self._normalize()

    def apply(self, learning_rate: float) -> None:
        """Step the optimizer with the accumulated gradients."""
        self._apply(learning_rate)

    @property
    def gradients(self) -> list[Any]:
        """The gradients of the update in progress, in the order of the trainable variables."""
        return [self._strategy.local(accumulator)[0] for accumulator in self._of_gradients()]

    def _of_gradients(self) -> list[Any]:
        """Return the accumulators that hold the gradients of the update, once they are normalized."""
        return self.accumulators[: len(self._step.variables)]

    def _make_accumulators(self) -> None:
        sums = self._number_of_sums()
        with self._strategy.scope():
            shapes = [(variable.shape, variable.dtype) for variable in self._step.variables]
            of_sums = () if sums == 1 else (sums,)
            self.accumulators = [
                tf.Variable(
                    tf.zeros(shape, dtype),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for shape, dtype in [*shapes * sums, *[(of_sums, sum_dtype())] * 2]
            ]

    def _number_of_sums(self) -> int:
        """Return how many sums of losses a micro-batch has, found by a trace unless there is certainly one."""
        if not self._step.model_io.has_one_sum():
            rows = None if self._rows is None else tf.TensorSpec(self._rows.shape[1:], tf.int32)
            given = [self._spec] if rows is None else [self._spec, rows]
            batch = (lambda pair: (pair, None)) if rows is None else (lambda pair, rows: (pair, rows))
            trace = tf.function(
                lambda *args: self._strategy.run(self._step.accumulate_on_replica, batch(*args)), given, autograph=False
            )
            trace.get_concrete_function()
        return len(self._step.reductions)

    def _accumulate_with(self, method: str) -> Callable[..., None]:
        def on_replica(batch: Any, rows: Any) -> None:
            values = self._step.accumulate_on_replica(batch, rows)
            for accumulator, value in zip(self.accumulators, values, strict=True):
                getattr(accumulator, method)(value)

        return lambda batch, rows: self._strategy.run(on_replica, (batch, rows))

    def _normalize_once(self) -> Any:
        def on_replica() -> tuple[Any, ...]:
            sums = [accumulator.read_value() for accumulator in self.accumulators]
            gradients, loss, norm = self._step.normalize(sums)
            for accumulator, gradient in zip(self.accumulators, gradients, strict=False):
                accumulator.assign(gradient)
            return loss, norm, *self._step.losses.counted

        loss, norm, *counted = self._strategy.run(on_replica, ())
        for value in counted:
            self.counted.assign(self._strategy.local(value)[0])
        self.loss.assign(tf.cast(self._strategy.local(loss)[0], tf.float64))
        self.grad_norm.assign(tf.cast(self._strategy.local(norm)[0], tf.float32))
        return self.grad_norm.read_value()

    def _apply_once(self, learning_rate: Any) -> None:
        def on_replica() -> None:
            self._step.apply([accumulator.read_value() for accumulator in self._of_gradients()])

        self._record_held()
        self._set_learning_rate(learning_rate)
        self._strategy.run(on_replica, ())

    # -- shared parts ---------------------------------------------------------------------------------------------

    def _set_learning_rate(self, learning_rate: Any) -> None:
        """Set the learning rate of the update, and keep it: Keras' own schedules go on with the update."""
        self._step.set_learning_rate(learning_rate)
        if self._step.trainer.lr_scheduler is None:
            self.learning_rate.assign(tf.cast(self._step.trainer.optimizer.learning_rate, tf.float32))

    def _record_held(self) -> None:
        """Add the loss of the update in pieces to the total."""
        self._record(self.loss.read_value(), [self.counted.read_value()] if self._step.may_be_empty else [])

    def _record(self, loss: Any, counted: Sequence[Any]) -> None:
        """Add the loss of an update to the total, and count it if nothing ``counted`` in it."""
        self.finite.add(loss)
        updates = tf.cast(counted[0], tf.float64) if counted else 1.0
        if counted:
            self._empty.assign_add(1.0 - updates)
        if self.watched is not None:
            self.watched.assign_add(loss)
        if self._skip_non_finite:
            mean = self._loss_total / tf.maximum(self._updates_in_total, 1.0)
            loss = tf.where(tf.math.is_finite(loss), loss, mean)
            self._updates_in_total.assign_add(updates)
        self._loss_total.assign_add(loss)

    def take_loss(self) -> tuple[float, int]:
        """Return the sum of the update losses since the last call, and how many had none. Waits for the device."""
        loss, empty, self.last_norm, *finite = self._take([]).numpy().tolist()
        self.finite.note(*finite)
        return float(loss), int(empty)

    def announce_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the optimizer to that of the next update."""
        self._announce([tf.convert_to_tensor(learning_rate, tf.float32)])

    @cached_property
    def _take(self) -> Callable[[list[Any]], Any]:
        return flat_call(tf.function(self._take_once, autograph=False).get_concrete_function())

    @cached_property
    def _announce(self) -> Callable[[list[Any]], Any]:
        return flat_call(
            tf.function(self._step.set_learning_rate, autograph=False).get_concrete_function(LEARNING_RATE)
        )

    def _take_once(self) -> Any:
        norm = tf.cast(self.grad_norm.read_value(), tf.float64)
        values = tf.stack([self._loss_total.read_value(), self._empty.read_value(), norm, *self.finite.values()])
        self._loss_total.assign(0.0)
        self._empty.assign(0.0)
        self._updates_in_total.assign(0.0)
        return values

    def _compiled(self, name: str, function: Callable[..., Any], signature: list[Any]) -> Callable[..., Any]:
        # data are read outside of XLA; what is compiled by it is an update
        xla = self._xla and not name.startswith("update")
        eager, strategy = self._eager, self._strategy
        outside = self.outside
        return compiled(name, function, signature, self._trace_counts, strategy, xla=xla, eager=eager, outside=outside)


def _window(batch_in: BatchIn, taken: Any, first: Any, length: int) -> tuple[Pair, ...]:
    """Return the micro-batches of an update, in the order in which they are read."""
    return tuple([batch_in(taken, first + number) for number in range(length)])


def rows_of(strategy: DistributedStrategy, pair: Pair) -> Any:
    """Return the rows of a batch for each replica of this process; None with a single replica."""
    return None if strategy.replicas == 1 else strategy.rows(examples_in(pair))
