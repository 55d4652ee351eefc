"""Training step in TensorFlow: forward, loss, backward, normalize and clip the gradients, step.

The gradient of an update is the gradient of the mean over all items of the update. Therefore each micro-batch of
each replica adds the sum of its losses, divided by a constant, and the gradients are divided by the sum of the weights
when the update is complete. Usually that sum is one, and no division is needed.

The traced methods (see below) run while a tf.function of `compiled_step` is traced; the others run at every update.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import tensorflow as tf

from ..base_engine.engine import BaseEngine
from ..base_engine.train_step import BaseTrainStep
from ..optim.lr_schedules import step_schedule
from ..train_step import StepContext, TrainBatch
from .compiled_step import CompiledStep
from .data.readers import Pair, Reader, inputs_of
from .distributed.strategy import DistributedStrategy
from .draws.state import DRAWS
from .loss import LossAccumulator, pair_in
from .model_io import ModelIO
from .objective.gradients import dense, existing, global_norm, gradients_in, keras_scaled, update_of, without_gradient
from .objective.items import MEAN
from .objective.sums import single_sum, stacked, unstacked
from .oom_retry import OOMRetrier
from .optim._compat import variables_known_to
from .optim.factory import note_rates
from .optim.resuming import TFMadeOptimizer
from .optim.skipping import TFSkipsUpdates
from .optim.trained import FollowsTrainable
from .precision.base import Precision
from .update_queue import MAX_MICRO_BATCHES, WITHIN_UPDATES, OwnNeeds, UpdateQueue, is_whole, not_in_pieces


class TFTrainStep(FollowsTrainable, TFSkipsUpdates, BaseTrainStep):
    """One update of a Keras model.

    Args:
        engine: Its trainer's model, optimizer and schedule are read, and methods are traced, overridden or not; its
            timer is notified before this process waits for others.
        precision: Provides loss scaling.
        trace_counts: Number of traces of each function, updated here.

    Attributes:
        losses: The sums of the update while it is traced.
        queue: Pending updates.
        retrier: Halves micro-batches that do not fit into memory; None unless ``args.auto_find_batch_size``.
        compiled: The functions of the run; None before the first run.
        reference: The divisor of sums of losses: the number of examples in a whole update.
        reductions: The reduction of each sum of losses, found while the step is traced.
    """

    model_io: ModelIO
    strategy: DistributedStrategy
    precision: Precision

    def __init__(self, engine: BaseEngine, precision: Precision, trace_counts: Counter[str]) -> None:
        super().__init__(engine, precision)
        args = self.trainer.args
        self.losses: LossAccumulator = LossAccumulator()
        self._receivers = engine.dispatcher.receivers
        size = 1 if precision.is_scaled else args.steps_per_execution
        self.queue: UpdateQueue = UpdateQueue(size, lambda queued: self.compiled.queued(queued))
        own_needs = OwnNeeds(engine.dispatcher, is_queued=size > 1)
        self.strategy.own_needs = lambda: own_needs(self.trainer.state.global_step + 1)
        self.retrier: OOMRetrier | None = None
        if args.auto_find_batch_size:
            self.retrier = OOMRetrier(lambda *part: self.compiled.accumulate(*part))
        self.compiled: CompiledStep = None  # type: ignore[assignment]  # begin_run creates it
        self.reference: float = float(args.train_batch_size * args.gradient_accumulation_steps)
        self.reductions: tuple[str, ...] = (MEAN,)
        self.lacking: frozenset[int] = frozenset()
        self._trace_counts = trace_counts
        # with a loss scale over several replicas, the host decides whether to skip the step
        self._is_in_pieces = self.retrier is not None or (precision.is_scaled and self.strategy.replicas > 1)

    def begin_run(self, spec: Pair) -> None:
        """Create the functions of a new run, for micro-batches with ``spec``."""
        self.queue.clear()
        self.follow(cast(TFMadeOptimizer, self.engine.made), self._receivers)
        self.compiled = CompiledStep(self, spec, self._trace_counts)
        self._used_rate: float | None = None
        if self.trainer.is_world_process_zero():
            self.model_io.tell_of_batch_norm()

    # -- an update --------------------------------------------------------------------------------------------------

    def fused_update(self, window: Sequence[TrainBatch]) -> bool:
        """Do a whole update in one call, now or together with the next ones; return False if this is not possible."""
        if self.may_be_other or self._may_be_changed():
            self.take_trainable()
        needs = self.strategy.needs()
        if self._is_in_pieces or len(window) > MAX_MICRO_BATCHES or needs.in_pieces:
            return False
        self.timer.exchange()
        for batch in window:
            self._count(batch)
        skipped, learning_rate = False, self._next_learning_rate()
        if self.queue.is_used and not needs.is_observed and is_whole(window, self.trainer.args):
            self.queue.add(window, learning_rate)
        else:
            self.queue.flush()
            skipped = self.compiled.update(window, learning_rate)
        if not (self.precision.is_scaled and bool(skipped)):
            step_schedule(self.trainer.lr_scheduler)
        return True

    def micro_step(self, batch: TrainBatch, context: StepContext) -> None:
        """Run the forward and the backward pass of a micro-batch."""
        self.timer.exchange()
        if self.overrides.any("apply_gradients", "distributed_training_steps"):
            raise not_in_pieces(type(self.trainer).__name__, list(filter(self._receivers, WITHIN_UPDATES)))
        self.queue.flush()
        self._count(batch)
        accumulate = self.compiled.accumulate if self.retrier is None else self.retrier.accumulate
        accumulate(inputs_of(batch), context.index == 0)

    def finish_gradients(self) -> Any:
        """Normalize, unscale and clip the gradients; return their norm before clipping, still on the device."""
        return self.compiled.normalize()

    def optimizer_step(self) -> bool:
        """Step the optimizer; return whether the loss scaler skipped the step."""
        skipped, learning_rate = False, self._next_learning_rate()
        if self.precision.is_scaled:
            is_finite = bool(np.isfinite(self.compiled.grad_norm.numpy()))
            self.precision.update(is_finite)
            skipped = not is_finite
        if skipped:
            self.compiled.record()
        else:
            self.compiled.apply(learning_rate)
        return skipped

    def clear_gradients(self) -> None:
        """Do nothing: the first micro-batch of the next update overwrites the gradients."""

    def _end_run(self) -> None:
        """Give the model the average of its weights (``use_ema``), as ``fit`` does; note the learning rates."""
        note_rates(self.trainer.optimizer, self.trainer.lr_scheduler)
        if getattr(self.trainer.optimizer, "use_ema", False):
            self.trainer.optimizer.finalize_variable_values(variables_known_to(self.trainer.optimizer))

    # -- traced methods, on a replica ------------------------------------------------------------------------------

    def distributed_training_steps(self, batch: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        """Do an update on every replica; return its loss, gradient norm, and whether it was skipped."""
        window, rows = batch
        results = self.strategy.run(self._update_on_replica, (window, rows, tf.constant(self.reference)))
        loss, norm, skipped, *self.counted = (self.strategy.local(result)[0] for result in results)
        return loss, norm, skipped

    def _update_on_replica(self, window: Any, rows: Any, nb_instances: Any) -> tuple[Any, ...]:
        losses, last = self.losses, len(window) - 1
        for index, batch in enumerate(window):
            (features, labels), counts = self.strategy.replica_slice(batch, None if rows is None else rows[index])
            losses.begin(counts, is_first=index == 0, is_whole=counts is None and last == 0)
            with DRAWS.micro_batch(), self.model_of_run():
                if index < last:
                    losses.add_gradients(gradients_in(self, features, labels, nb_instances))
                else:
                    self.trainer.apply_gradients(features, labels, nb_instances)
        return losses.loss, losses.norm, losses.skipped, *losses.counted

    def training_step(self, features: Any, labels: Any, nb_instances: Any) -> list[Any]:
        """Return the gradients of the sum of the losses divided by ``nb_instances``, with the loss scale.

        If there are several sums, the gradients of one follow those of the other.
        """
        variables = self.variables
        labels = self.losses.unweighted(labels, self.trainer.class_weight)
        with tf.GradientTape(persistent=True) as tape:
            loss, logits = pair_in(self.trainer.run_model(features, labels, True), self.trainer)
            sums = self.model_io.sums_of(loss, logits, features, labels, self.losses)
            if sums is None:
                raise self.model_io.no_loss()
            sums = single_sum(sums) if self.losses.is_whole else sums
            self.reductions, self.may_be_empty = sums.reductions, sums.may_be_empty
            divisor = tf.cast(nb_instances, sums.totals[0].dtype)
            loss, _ = self.losses.add(*(stacked([value / divisor for value in part]) for part in sums[:2]))
            parts = unstacked(self.precision.scaled(loss))
        found = [tape.gradient(part, [variable.value for variable in variables]) for part in parts]
        self.lacking = without_gradient(found)
        if self.lacking == set(range(len(variables))):
            raise self.model_io.no_gradient()
        return dense(found, variables)

    def run_model(self, features: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        """Return the loss of each example (None without labels) and the logits."""
        loss, logits = self.model_io.call(features, labels, training)
        if self.model_io.computes_loss and "compute_loss" not in self.overrides and (training or labels is not None):
            loss = self.model_io.loss_by_model(
                features, labels, logits, self.losses.take_weight(labels, logits), training
            )
        elif labels is not None and not self.model_io.has_loss:
            loss = self.trainer.compute_loss(labels, logits)
        return loss, logits

    def compute_loss(self, labels: Any, logits: Any) -> Any:
        """Return the loss of each example by the loss function, or with label smoothing."""
        return self.model_io.loss_of(labels, logits, self.losses.take_weight(labels, logits))

    def apply_gradients(self, features: Any, labels: Any, nb_instances: Any) -> None:
        """Add the last micro-batch of an update, and step the optimizer with the gradients of all micro-batches."""
        losses = self.losses
        gradients = losses.add_gradients(gradients_in(self, features, labels, nb_instances))
        gradients, losses.loss, losses.norm = self.normalize([*gradients, losses.loss, losses.weight])
        losses.skipped = self._apply_if_finite(gradients, losses.norm)

    def normalize(self, sums: list[Any]) -> tuple[list[Any], Any, Any]:
        """Return the update's gradients, normalized and clipped, its loss, and its gradient norm before clipping.

        Args:
            sums: Gradients, loss and weight, each summed over the micro-batches of this replica.
        """
        *gradients, loss, weight = self.strategy.sum_replicas(sums)
        self.losses.counted = [tf.reduce_any(weight > 0)] if self.may_be_empty else []
        gradients, loss, share = update_of(gradients, loss, weight, self.reductions, self.reference)
        factor = self.precision.unscaled(tf.cast(share, tf.float32))
        norm = global_norm(gradients) * factor
        max_grad_norm = self.trainer.args.max_grad_norm
        if max_grad_norm > 0:
            factor = factor * tf.minimum(1.0, max_grad_norm / (norm + 1e-6))
        return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients], loss, norm

    def apply(self, gradients: list[Any]) -> Any:
        """Step the optimizer; return False, since the step was not skipped."""
        optimizer, variables = self.trainer.optimizer, self.variables
        optimizer.apply(*existing(keras_scaled(gradients, optimizer), variables, self.lacking))
        return tf.constant(False)

    def _apply_if_finite(self, gradients: list[Any], norm: Any) -> Any:
        """Step the optimizer, unless float16 overflowed; return whether the step was skipped."""
        if not self.precision.is_scaled:
            return self.apply(gradients)
        is_finite = tf.math.is_finite(norm)
        skipped = tf.cond(is_finite, lambda: self.apply(gradients), lambda: tf.constant(True))
        self.precision.update(is_finite)
        return skipped

    def accumulate_on_replica(self, batch: Any, rows: Any) -> list[Any]:
        """Return the gradients, the loss sum and the weight of a replica's rows of a micro-batch."""
        (features, labels), counts = self.strategy.replica_slice(batch, rows)
        self.losses.begin(counts)
        with DRAWS.micro_batch(), self.model_of_run():
            gradients = gradients_in(self, features, labels, tf.constant(self.reference))
        return [*gradients, self.losses.loss, self.losses.weight]

    def set_learning_rate(self, learning_rate: Any) -> None:
        """Set the learning rate of the optimizer, if there is a schedule."""
        if self.trainer.lr_scheduler is not None:
            self.trainer.optimizer.learning_rate.assign(learning_rate)

    # -- records --------------------------------------------------------------------------------------------------

    def first_non_finite(self, *, wait: bool) -> tuple[int, float] | None:
        """Return the first update whose loss is not finite, and that loss; with ``wait``, look for it."""
        return self.compiled.finite.first_non_finite(wait=wait)

    def training_record(self) -> dict[str, float]:
        """Return the gradient norm and the learning rate of the last update, after its loss was taken."""
        self.take_schedule()
        used = self.used_groups()
        if self.trainer.lr_scheduler is not None:  # as callbacks see it in PyTorch
            self.compiled.announce_rate(self._learning_rate())
        norm = {"grad_norm": self.compiled.last_norm} if self.compiled.finite.done else {}
        rate = {"learning_rate": used[0]["lr"]} if used else {}
        return {**norm, **rate, **self._tokens_record()}

    def used_groups(self) -> list[dict[str, Any]]:
        """Return the learning rate of the last update as that of a single group; empty before the first update."""
        self.queue.flush()
        if self._used_rate is None:
            return []
        has_schedule = self.trainer.lr_scheduler is not None
        rate = self._used_rate if has_schedule else float(self.compiled.learning_rate.numpy())
        return [{"lr": rate, "momentum": getattr(self.trainer.optimizer, "momentum", None)}]

    def _count(self, batch: TrainBatch) -> None:
        inputs = batch.inputs
        if isinstance(inputs, Reader):
            self.trainer.state.num_input_tokens_seen += batch.examples * (inputs.tokens or 0)
        else:
            self._count_work(inputs.features)

    def _next_learning_rate(self) -> float:
        """Return the learning rate of an update that is about to be done, and keep it for its record."""
        self._used_rate = rate = self._learning_rate()
        return rate

    def _learning_rate(self) -> float:
        schedule = self.trainer.lr_scheduler
        return 0.0 if schedule is None else float(schedule.get_last_lr()[0])
