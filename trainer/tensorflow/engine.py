"""The TensorFlow backend of the loop: what a batch, an update, an evaluation step and a snapshot are here.

The methods stand in the order of `trackside.trainer.loop.Backend` and
`trackside.trainer.evaluation.evaluation_loop.Evaluator`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from trackside.callbacks.errors import TracksideValueError

from ..base_trainer import BaseTrainer
from ..data.sharding import derive_seed
from ..distributed.collectives import Collectives
from . import data, snapshot
from .arguments import TFTrainingArguments
from .checkpoint import Keeping
from .compiled_step import MAX_MICRO_BATCHES, Step
from .data import TrainBatch
from .distributed.strategy import strategy_for
from .evaluation import Evaluating
from .model_io import call_model
from .oom_retry import retry_smaller
from .optim.factory import prepare_optimizer, rate_of
from .precision import POLICIES, apply_policy, check_scaled, is_made_in, policy_for_new_layers, precision_of, set_tf32
from .seeding import seed_model, set_seed
from .train_step import Objective
from .update_queue import WITHIN_UPDATES, UpdateQueue


class TFBackend(Objective, Evaluating, Keeping, BaseTrainer):
    """Fills in what the loop and the evaluation need."""

    args: TFTrainingArguments
    get_train_tfdataset: Callable[..., Any]
    get_eval_tfdataset: Callable[..., Any]
    get_test_tfdataset: Callable[..., Any]
    create_optimizer_and_scheduler: Callable[..., None]
    run_model: Callable[..., tuple[Any, Any]]
    distributed_training_steps: Callable[..., Any]
    distributed_prediction_steps: Callable[..., Any]
    floating_point_ops: Callable[..., int]
    _own_optimizers: tuple[Any, Any]

    def _set_up_backend(self) -> None:
        args = self.args
        self.processes = strategy_for(args)
        self._set_up_step()

    def _set_up_step(self) -> None:
        args = self.args
        self.precision = precision_of(args)
        self.trace_counts: Counter[str] = Counter()
        self.queue = UpdateQueue(self)
        self.step: Step
        self._has_stepped = False
        self._eval_policy = (
            POLICIES["bf16"] if args.bf16_full_eval else POLICIES["fp16"] if args.fp16_full_eval else None
        )
        self._epoch_number = 0
        self._flos = 0
        self._splits = 1
        set_tf32(args.tf32)
        self._predictors: dict[Any, Callable[..., Any]] = {}
        self._element_spec: Any = None
        self._know_model()

    # -- set up ---------------------------------------------------------------------------------------------------

    def prepare_data(self) -> int | None:
        """Build the source of training batches; return its batches of one epoch, if known."""
        self._train_batches = self._training_batches()
        self._update_context(train_dataloader=self._train_batches)
        return self._train_batches.num_batches()

    def prepare_model(self, max_steps: int) -> None:
        """Build the model on every replica, create optimizer, schedule and the functions of the step."""
        args = self.args
        self.precision = precision_of(args)
        self._ready_model(self._train_batches)
        check_scaled(self.model, self.precision)
        self._check_loss()
        self.optimizer, self.lr_scheduler = self._own_optimizers
        with self.processes.scope():
            self.create_optimizer_and_scheduler(max_steps)
            if self.optimizer is None:
                raise TracksideValueError(
                    "create_optimizer_and_scheduler() made no optimizer: it sets self.optimizer, and self.lr_scheduler"
                )
            variables = self.model.trainable_variables
            self.optimizer = prepare_optimizer(self.optimizer, variables, self.processes.replicas)
        self.trace_counts.clear()
        self._has_stepped = False
        self.step = Step(
            self, self._train_batches.element_spec, args.train_batch_size * args.gradient_accumulation_steps
        )
        self._counts_flos = self.has_own("floating_point_ops") or hasattr(self.model, "floating_point_ops")
        self._update_context()

    def _ready_model(self, batches: data.Batches | None) -> None:
        """Build the model, where it is not yet, and bring it to the precision asked for."""
        policy = self.precision.policy
        is_made_in_it = is_made_in(self.model, policy)
        if not self.model.built:
            if batches is None:
                raise TracksideValueError(
                    f"{type(self.model).__name__} has no weights yet; call it on a batch, or give TFTrainer a dataset"
                )
            features, _ = data.first_example(batches)
            features = tf.nest.map_structure(tf.convert_to_tensor, features)
            with self.args.strategy.scope(), policy_for_new_layers(policy):
                call_model(self.model, features, None, False, with_labels=False, spreads=self._spreads)
        if not is_made_in_it:
            apply_policy(self.model, policy)
        self.processes.adopt_variables(self.model)
        self._know_model()

    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators: from the checkpoint, or afresh from ``args.seed`` and the rank."""
        seed, rank = self.args.seed, self.processes.rank
        path = None if checkpoint is None else checkpoint / snapshot.RNG_FILE.format(rank=rank)
        set_seed(seed if rank == 0 else derive_seed(seed, rank) % 2**32)
        tf.random.set_seed(seed)  # the order of a tf.data.Dataset depends on it, and is the same on every process
        seed_model(self.model, seed)
        if path is not None and path.exists():
            snapshot.set_random_state(snapshot.read_json(path), self.model)

    # -- the epoch ------------------------------------------------------------------------------------------------

    def epoch_batches(self, epoch: int, skip_examples: int) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch."""
        return self.step_timer.reading(self._epoch_batches(epoch, skip_examples))

    def _epoch_batches(self, epoch: int, skip_examples: int) -> Iterator[TrainBatch]:
        skip = 0 if self.args.ignore_data_skip else skip_examples
        for pair in self._train_batches.epoch(epoch, skip):
            examples = data.examples_in(pair)
            yield TrainBatch(pair, examples, examples)
        self.queue.flush()

    def count_examples(self, window: Sequence[TrainBatch]) -> int:
        """Return the examples in a window, counted over all processes."""
        return sum(batch.examples_of_all for batch in window)

    def _training_batches(self) -> data.Batches:
        args = self.args
        options = {
            "batch_size": args.train_batch_size,
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "shuffle": True,
            "drop_last": args.dataloader_drop_last,
        }
        if not self.has_own("get_train_tfdataset"):
            return data.make_batches(self.train_dataset, **options)

        def build(epoch: int) -> Any:
            self._epoch_number = epoch
            return self.get_train_tfdataset()

        return data.OwnBatches(build, **options)

    # -- the update -----------------------------------------------------------------------------------------------

    def micro_step(self, batch: TrainBatch, index: int, count: int) -> None:
        """Take a micro-batch forward and backward."""
        self.step_timer.exchange()
        if self.has_own("apply_gradients", "distributed_training_steps"):
            raise TracksideValueError(_in_one_piece(self))
        self.queue.flush()
        self._account(batch)
        if self.args.auto_find_batch_size:
            retry_smaller(self, batch, index == 0)
        else:
            self.step.accumulate(batch.inputs, self._rows_of(batch.inputs), index == 0)

    def finish_gradients(self) -> Any:
        """Normalise, unscale and clip the gradients; return their norm before clipping, still on the device."""
        self._has_stepped = True
        return self.step.normalise()

    def optimizer_step(self) -> bool:
        """Step optimizer and schedule; return whether the loss scaler held the step back."""
        skipped = False
        if self.precision.is_scaled:
            is_finite = bool(np.isfinite(self.step.grad_norm.numpy()))
            self.precision.update(is_finite)
            skipped = not is_finite
        if not skipped:
            self.step.apply(self._learning_rate())
            self._next_learning_rate()
        return skipped

    def clear_gradients(self) -> None:
        """Do nothing: the first micro-batch of the next update overwrites the gradients."""

    def fused_update(self, window: Sequence[TrainBatch]) -> bool:
        """Do a whole update in one call, at once or together with the next ones; return whether it fits."""
        if self.args.auto_find_batch_size or len(window) > MAX_MICRO_BATCHES:
            return False
        if any(map(self.dispatcher.receivers, WITHIN_UPDATES)):
            return False
        if self.precision.is_scaled and self.processes.replicas > 1:
            return False  # whether the step is held back is for the host to decide
        self.step_timer.exchange()
        for batch in window:
            self._account(batch)
        self._has_stepped = True
        if self.queue.takes(window):
            self.queue.add(window, self._learning_rate())
            self._next_learning_rate()
        else:
            self.queue.flush()
            skipped = self.update_at_once(window, self._learning_rate())
            if not (self.precision.is_scaled and bool(skipped)):
                self._next_learning_rate()
        return True

    def update_at_once(self, window: Sequence[TrainBatch], learning_rate: float) -> Any:
        """Do one update; return whether it was held back, still on the device."""
        inputs = [batch.inputs for batch in window]
        rows = None if self.processes.replicas == 1 else np.stack([self._rows_of(pair) for pair in inputs])
        return self.step.update(inputs, rows, learning_rate)

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing: tf.distribute itself ends the others when one process dies."""
        return nullcontext()

    def agree(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first, and a stop signal that any of them got."""
        signal = self.processes.sync_control(self.control, stop_signal)
        if self.control.should_training_stop or self.control.should_epoch_stop or signal is not None:
            self.queue.flush()
        return signal

    @property
    def gradients(self) -> list[Any]:
        """The gradients of this update, from on_pre_optimizer_step on, in the order of the trainable variables."""
        return self.step.gradients

    def _rows_of(self, pair: data.Pair) -> Any:
        return None if self.processes.replicas == 1 else self.processes.rows(data.examples_in(pair))

    def _learning_rate(self) -> float:
        return 0.0 if self.lr_scheduler is None else float(self.lr_scheduler.get_last_lr()[0])

    def _next_learning_rate(self) -> None:
        if self.lr_scheduler is not None and not self._follows_metric():
            self.lr_scheduler.step()

    def _account(self, batch: TrainBatch) -> None:
        features = batch.inputs.features
        if self._counts_flos:
            self._flos += self.floating_point_ops(features)
        if isinstance(features, Mapping) and "input_ids" in features:
            self.state.num_input_tokens_seen += int(np.prod(features["input_ids"].shape))

    # -- records --------------------------------------------------------------------------------------------------

    def take_loss(self) -> float:
        """Return the sum of the losses of the updates since the last call. Waits for the device."""
        self.queue.flush()
        return self.step.take_loss()

    def training_record(self) -> dict[str, float]:
        """Return gradient norm, learning rate and what callbacks add. Waits for the device."""
        self.queue.flush()
        record = {"grad_norm": float(self.step.grad_norm.numpy())} if self._has_stepped else {}
        if self.lr_scheduler is not None:
            self.optimizer.learning_rate.assign(self._learning_rate())  # the next one, as callbacks see it in PyTorch
        record["learning_rate"] = rate_of(self.optimizer) if self.lr_scheduler is None else self._learning_rate()
        return {**record, **self.dispatcher.logged_metrics()}

    def _follows_metric(self) -> bool:
        return bool(getattr(self.lr_scheduler, "follows_metric", False))

    def store_flos(self) -> None:
        """Add the floating point operations since the last call to ``state.total_flos``."""
        self.state.total_flos += float(self._flos)
        self._flos = 0

    # -- processes ------------------------------------------------------------------------------------------------

    @property
    def collectives(self) -> Collectives:
        """What the ranks gather, and decide together."""
        return self.processes.collectives

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks."""
        return self.collectives.gather("gather_objects()", value)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.collectives.barrier("barrier()")

    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""
        set_seed(seed, deterministic=self.args.full_determinism)


def _in_one_piece(trainer: TFBackend) -> str:
    heard = ", ".join(filter(trainer.dispatcher.receivers, WITHIN_UPDATES))
    in_pieces = (
        f"over {MAX_MICRO_BATCHES} micro-batches, auto_find_batch_size and float16 on several replicas cut it up"
    )
    why = f"somebody listens to {heard}" if heard else in_pieces
    return (
        f"{type(trainer).__name__} overrides apply_gradients or distributed_training_steps, which do an update in one "
        f"piece, but {why}. Override training_step, run_model or compute_loss instead, or let nobody listen inside"
    )
