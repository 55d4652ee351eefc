"""The compiled functions of a run, each traced a fixed number of times, and the numbers that stay on the device.

An update is one function, from the batches to the new weights, where nobody listens inside it; several updates are one
where nobody listens between them either. Otherwise the same arithmetic goes piece by piece.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import TracksideError, TracksideValueError

if TYPE_CHECKING:
    from .engine import TFBackend

logger = logging.getLogger("trackside.trainer")

MAX_MICRO_BATCHES = 8
"""An update of more micro-batches goes piece by piece, so that its function does not grow without bounds."""

LEARNING_RATE = tf.TensorSpec((), tf.float32)


class Step:
    """The training functions of one run.

    Args:
        trainer: Whose methods are traced.
        spec: A Pair of nested tf.TensorSpec: what a micro-batch looks like.
        reference: The constant that sums of losses are divided by: the examples of a whole update.
    """

    def __init__(self, trainer: TFBackend, spec: Any, reference: int) -> None:
        self.trainer = trainer
        self.spec = spec
        self.reference = float(reference)
        self.trace_counts = trainer.trace_counts
        self.loss_total = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.updates_in_total = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.grad_norm = tf.Variable(0.0, dtype=tf.float32, trainable=False)
        self._by_length: dict[int, Callable[..., Any]] = {}
        self._several: dict[int, Callable[..., Any]] = {}
        self._accumulators: list[Any] = []
        local = trainer.processes.local_replicas
        self._rows = None if trainer.processes.replicas == 1 else tf.TensorSpec((None, local, 3), tf.int32)
        if trainer.args.xla and trainer.processes.replicas > 1:
            logger.warning("xla=True is left out: it compiles the step of one replica, and there are several")

    # -- a whole update -------------------------------------------------------------------------------------------

    def update(self, window: Sequence[Any], rows: Any, learning_rate: float) -> Any:
        """Do an update; return whether it was held back, still on the device."""
        function = self._by_length.get(len(window))
        if function is None:
            signature = [(self.spec,) * len(window), self._rows, LEARNING_RATE]
            function = self._by_length[len(window)] = self._compiled("update", self._update, signature)
        return function(tuple(window), rows, learning_rate)

    def updates(self, windows: Sequence[Sequence[Any]], rows: Any, learning_rates: Sequence[float]) -> None:
        """Do as many updates as there are windows, all alike, in one call."""
        length = len(windows[0])
        function = self._several.get(length)
        if function is None:
            spec = tf.nest.map_structure(_stacked_twice, self.spec)
            signature = [spec, _stacked_once(self._rows), tf.TensorSpec((None,), tf.float32)]
            function = self._several[length] = self._compiled("updates", self._updates_of(length), signature)
        batches = [batch for window in windows for batch in window]
        stacked = tf.nest.map_structure(lambda *leaves: _stack(leaves, (len(windows), length)), *batches)
        function(stacked, rows, np.asarray(learning_rates, dtype=np.float32))

    def _update(self, window: Any, rows: Any, learning_rate: Any) -> Any:
        trainer = self.trainer
        self._set_learning_rate(learning_rate)
        loss, norm, skipped = trainer.distributed_training_steps((window, rows))
        self._record(loss, norm)
        return skipped

    def _updates_of(self, length: int) -> Callable[..., Any]:
        def updates(stacked: Any, rows: Any, learning_rates: Any) -> None:
            def body(index: Any) -> tuple[Any]:
                window = tuple(
                    tf.nest.map_structure(lambda leaf, m=m: None if leaf is None else leaf[index, m], stacked)
                    for m in range(length)
                )
                self._update(window, None if rows is None else rows[index], learning_rates[index])
                return (index + 1,)

            tf.while_loop(lambda index: index < tf.size(learning_rates), body, (tf.constant(0),))

        return updates

    # -- an update in pieces --------------------------------------------------------------------------------------

    def accumulate(self, batch: Any, rows: Any, is_first: bool) -> None:
        """Take a micro-batch forward and backward, into the accumulators."""
        if not self._accumulators:
            self._make_pieces()
        (self._begin if is_first else self._go_on)(batch, rows)

    def normalise(self) -> Any:
        """Normalise and clip the accumulated gradients; return their norm before."""
        return self._normalise()

    def apply(self, learning_rate: float) -> None:
        """Step the optimizer with the accumulated gradients."""
        self._apply(learning_rate)

    @property
    def gradients(self) -> list[Any]:
        """The gradients of the update in progress, in the order of the trainable variables."""
        return [self.trainer.processes.local(accumulator)[0] for accumulator in self._accumulators[:-2]]

    def _make_pieces(self) -> None:
        variables = self.trainer.model.trainable_variables
        with self.trainer.processes.scope():
            shapes = [(variable.shape, variable.dtype) for variable in variables] + [((), "float32")] * 2
            self._accumulators = [
                tf.Variable(
                    tf.zeros(shape, dtype),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for shape, dtype in shapes
            ]
        rows = None if self._rows is None else tf.TensorSpec(self._rows.shape[1:], tf.int32)
        self._begin = self._compiled("accumulate", self._accumulate_with("assign"), [self.spec, rows])
        self._go_on = self._compiled("accumulate", self._accumulate_with("assign_add"), [self.spec, rows])
        self._normalise = self._compiled("normalise", self._normalise_once, [])
        self._apply = self._compiled("apply", self._apply_once, [LEARNING_RATE])

    def _accumulate_with(self, method: str) -> Callable[..., None]:
        trainer = self.trainer

        def on_replica(batch: Any, rows: Any) -> None:
            (features, labels), counts = trainer.processes.replica_slice(batch, rows)
            window = trainer._window
            window.begin(counts)
            gradients = trainer.training_step(features, labels, tf.constant(self.reference))
            for accumulator, value in zip(self._accumulators, [*gradients, window.loss, window.weight], strict=True):
                getattr(accumulator, method)(value)

        return lambda batch, rows: trainer.processes.run(on_replica, (batch, rows))

    def _normalise_once(self) -> Any:
        trainer = self.trainer

        def on_replica() -> tuple[Any, Any]:
            *gradients, loss, weight = [accumulator.read_value() for accumulator in self._accumulators]
            trainer._window.begin()
            trainer._window.note(loss, weight)
            gradients, norm = trainer._reduced(gradients)
            for accumulator, gradient in zip(self._accumulators, gradients, strict=False):
                accumulator.assign(gradient)
            return trainer._window.loss, norm

        loss, norm = trainer.processes.run(on_replica, ())
        self._record(trainer.processes.local(loss)[0], trainer.processes.local(norm)[0])
        return self.grad_norm.read_value()

    def _apply_once(self, learning_rate: Any) -> None:
        trainer = self.trainer

        def on_replica() -> None:
            gradients = [accumulator.read_value() for accumulator in self._accumulators[:-2]]
            trainer.optimizer.apply(gradients, trainer.model.trainable_variables)

        self._set_learning_rate(learning_rate)
        trainer.processes.run(on_replica, ())

    # -- what they share ------------------------------------------------------------------------------------------

    def _set_learning_rate(self, learning_rate: Any) -> None:
        if self.trainer.lr_scheduler is not None:
            self.trainer.optimizer.learning_rate.assign(learning_rate)

    def _record(self, loss: Any, norm: Any) -> None:
        """Add the loss of an update to the total."""
        loss = tf.cast(loss, tf.float64)
        if self.trainer.args.logging_nan_inf_filter:
            mean = self.loss_total / tf.maximum(self.updates_in_total, 1.0)
            loss = tf.where(tf.math.is_finite(loss), loss, mean)
            self.updates_in_total.assign_add(1.0)
        self.loss_total.assign_add(loss)
        self.grad_norm.assign(tf.cast(norm, tf.float32))

    def take_loss(self) -> float:
        """Return the sum of the update losses since the last call. Waits for the device."""
        value = float(self.loss_total.numpy())
        self.loss_total.assign(0.0)
        self.updates_in_total.assign(0.0)
        return value

    def _compiled(self, name: str, function: Callable[..., Any], signature: list[Any]) -> Callable[..., Any]:
        is_alone = self.trainer.processes.replicas == 1
        return compiled(name, function, signature, self.trace_counts, xla=self.trainer.args.xla and is_alone)


def compiled(
    name: str, function: Callable[..., Any], signature: list[Any], trace_counts: Counter[str], *, xla: bool
) -> Callable[..., Any]:
    """Return ``function`` as a tf.function that takes just ``signature``, and counts how often it is traced.

    The signature may hold None, which tf.function does not know: the function inside takes the tensors alone.
    """
    places = [spec is not None for spec in tf.nest.flatten(signature)]

    def counted(*tensors: Any) -> Any:
        trace_counts[name] += 1
        rest = iter(tensors)
        return function(*tf.nest.pack_sequence_as(signature, [next(rest) if place else None for place in places]))

    specs = [spec for spec in tf.nest.flatten(signature) if spec is not None]
    inner = tf.function(counted, input_signature=specs, autograph=False, jit_compile=True if xla else None)
    concrete: Callable[..., Any] | None = None

    def call(*args: Any) -> Any:
        nonlocal concrete
        if concrete is None:
            concrete = inner if xla else _traced(inner)
        given = [leaf for leaf in tf.nest.flatten(args) if leaf is not None]
        tensors = [tf.convert_to_tensor(leaf, spec.dtype) for leaf, spec in zip(given, specs, strict=True)]
        try:
            return concrete(*tensors)
        except tf.errors.InvalidArgumentError as error:
            found = re.search(r"a label value of .*? outside the valid range of \[.*?\)", str(error))
            if found is None:
                raise
            raise TracksideValueError(f"the labels do not fit the model's outputs: there is {found.group(0)}") from None

    return call


def _traced(function: Any) -> Any:
    """Return the only trace of ``function``: called directly, it spares as much time as the step of a small net."""
    try:
        return function.get_concrete_function()
    except TracksideError as error:
        # or thirty lines of TensorFlow's stand above a message that needs none
        raise error.with_traceback(None) from error.__cause__


def _stacked_once(spec: Any) -> Any:
    return None if spec is None else tf.TensorSpec((None, *spec.shape), spec.dtype)


def _stacked_twice(spec: Any) -> Any:
    return None if spec is None else tf.TensorSpec((None, None, *spec.shape), spec.dtype)


def _stack(leaves: Sequence[Any], shape: tuple[int, int]) -> Any:
    if leaves[0] is None:
        return None
    if isinstance(leaves[0], np.ndarray):
        return np.stack(leaves).reshape(*shape, *leaves[0].shape)
    return tf.reshape(tf.stack(leaves), (*shape, *leaves[0].shape))
