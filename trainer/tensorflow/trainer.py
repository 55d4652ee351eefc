"""The TensorFlow trainer: what the reference documentation lets you override, and the loop's backend below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trackside.callbacks.errors import ArgumentError, TracksideTypeError, TracksideValueError

from ..base_trainer import check_args
from ..transformers_compat import ON_TENSORFLOW, warn_of_unused_overrides
from . import data, snapshot
from .arguments import TFTrainingArguments
from .engine import TFBackend
from .loss import sum_and_weight
from .optim.factory import create_optimizer, create_scheduler, own_optimizer, own_schedule
from .precision import policy_for_new_layers, precision_of
from .seeding import set_seed


class TFTrainer(TFBackend):
    """Trains, evaluates and predicts with a Keras model.

    Args:
        model: Any Keras model with a compiled loss or ``loss_fn``, or one that is called with labels and returns
            (loss, logits); without one, ``model_init`` makes it. Of what it was compiled with, only the loss counts.
        args: The training arguments; without them, the defaults.
        train_dataset: A tf.data.Dataset of examples (features, labels), or a pair of arrays, or of nested arrays.
        eval_dataset: A dataset, or a dict of datasets.
        compute_metrics: Gets an EvalPrediction, returns a dict of numbers.
        callbacks: Callbacks, as instances or classes.
        optimizers: A Keras optimizer, and a function from the updates completed to the learning rate, to use instead
            of those that ``args`` describe.
        model_init: Makes a new model at each call of train(), in the strategy's scope; takes nothing, or a trial.
        loss_fn: A Keras loss, its name, or a function of (labels, outputs) that gives the loss of each example.

    Raises:
        ArgumentError: If arguments contradict each other.
    """

    args: TFTrainingArguments

    def __init__(
        self,
        model: Any = None,
        args: TFTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        *,
        model_init: Callable[..., Any] | None = None,
        loss_fn: Any = None,
    ) -> None:
        check_keras()
        args = TFTrainingArguments() if args is None else args
        check_args(args, TFTrainingArguments)
        warn_of_unused_overrides(self, TFTrainer, ON_TENSORFLOW)
        _ = args.strategy  # before any operation runs: several processes can be joined only then
        set_seed(args.seed, deterministic=args.full_determinism)
        if model is None and model_init is None:
            raise TracksideTypeError("TFTrainer needs model, a Keras model, or model_init; it got neither")
        if model_init is not None and tuple(optimizers) != (None, None):
            raise ArgumentError("optimizers", optimizers, "none beside model_init, whose models they would not know")
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            loss_fn=loss_fn,
            model_init=model_init,
        )
        if model is None:
            self.model = self.call_model_init()
        if not callable(getattr(self.model, "call", None)):
            raise TracksideTypeError(f"TFTrainer needs a Keras model; it got {type(self.model).__name__}")
        self.optimizer, self.lr_scheduler = own_optimizer(optimizers[0]), own_schedule(optimizers[1])
        self._own_optimizers = (self.optimizer, self.lr_scheduler)
        self._set_up_backend()
        self._update_context()
        self.dispatcher.send("on_init_end")

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new model from ``model_init``, made in the strategy's scope and in the precision asked for."""
        with self.args.strategy.scope(), policy_for_new_layers(precision_of(self.args).policy):
            return super().call_model_init(trial)

    # -- data -----------------------------------------------------------------------------------------------------

    def get_train_tfdataset(self) -> Any:
        """Return the training batches as a tf.data.Dataset of (features, labels), each for all replicas together.

        It is asked for at the beginning of each epoch, whose order is a function of (seed, epoch).
        """
        args = self.args
        return data.make_batches(
            self.train_dataset,
            batch_size=args.train_batch_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=True,
            drop_last=args.dataloader_drop_last,
        ).as_dataset(self._epoch_number)

    def get_eval_tfdataset(self, eval_dataset: Any = None) -> Any:
        """Return the batches of ``eval_dataset``, or of the trainer's own, each example once."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ArgumentError("eval_dataset", None, "evaluate() needs an evaluation dataset")
        return self.get_test_tfdataset(dataset)

    def get_test_tfdataset(self, test_dataset: Any) -> Any:
        """Return the batches of ``test_dataset``, each example once, in order."""
        size = self.args.eval_batch_size
        batches = data.make_batches(test_dataset, batch_size=size, seed=0, shuffle=False, drop_last=False)
        return batches.as_dataset()

    def num_examples(self, dataset: Any) -> int:
        """Return the number of examples in ``dataset``; 0 where it cannot be known."""
        return self.num_examples_or_none(dataset) or 0

    def num_examples_or_none(self, dataset: Any) -> int | None:
        """Return the number of examples in ``dataset``, where it can be known."""
        if isinstance(dataset, data.Batches):
            return dataset.num_examples
        if isinstance(dataset, tf.data.Dataset):
            count = int(dataset.cardinality())
            return count if count >= 0 else None
        return len(tf.nest.flatten(dataset)[0])

    # -- optimizer and schedule -----------------------------------------------------------------------------------

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Create what is not there yet of optimizer and schedule; what an override only returns is taken too."""
        made = self.create_optimizer()
        self.optimizer = made if self.optimizer is None else self.optimizer
        made = self.create_scheduler(num_training_steps)
        self.lr_scheduler = made if self.lr_scheduler is None else self.lr_scheduler

    def create_optimizer(self) -> Any:
        """Create the optimizer, unless there is one, and return it."""
        if self.optimizer is None:
            self.optimizer = create_optimizer(self.model, self.args)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule, unless there is one, and return it."""
        if self.lr_scheduler is None:
            self.lr_scheduler = create_scheduler(optimizer or self.optimizer, self.args, num_training_steps)
        return self.lr_scheduler

    # -- the step: all of this runs while a tf.function is traced ---------------------------------------------------

    def run_model(self, features: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        """Return the loss of each example (None without labels) and the logits.

        A single number as loss is taken as the mean of the batch. Override it at will; evaluation reports what it
        returns.
        """
        return self._run_model(features, labels, training)

    def compute_loss(self, labels: Any, logits: Any) -> Any:
        """Return the loss of each example, of a model that does not compute its own; not called without labels.

        Labels that are -100 do not count, whatever is returned for them.
        """
        if self._smooths:
            return self._smoothed(labels, logits)
        return self._loss_of(labels, logits)

    def training_step(self, features: Any, labels: Any, nb_instances_in_global_batch: Any) -> list[Any]:
        """Return the gradients of a micro-batch's share of the update, on one replica.

        Args:
            nb_instances_in_global_batch: What sums of losses are divided by: the examples of a whole update, over all
                replicas and micro-batches. Where an update has others, or labels that do not count, the difference is
                divided out when all gradients are there.
        """
        return self._gradients(features, labels, nb_instances_in_global_batch)

    def apply_gradients(self, features: Any, labels: Any, nb_instances_in_global_batch: Any) -> None:
        """Take the last micro-batch of an update, and step the optimizer with the gradients of them all.

        Who overrides this, or distributed_training_steps, has the update in one piece: no callback can listen inside.
        """
        window = self._window
        gradients = window.keep(self.training_step(features, labels, nb_instances_in_global_batch))
        gradients, window.norm = self._reduced(gradients)
        window.skipped = self._apply(gradients, window.norm)

    def distributed_training_steps(self, batch: Any) -> tuple[Any, Any, Any]:
        """Do an update on every replica; return its loss, gradient norm, and whether it was held back.

        Args:
            batch: The micro-batches of the update, and which rows of each belong to which replica.
        """
        window, rows = batch
        results = self.processes.run(self._update_on_replica, (window, rows, tf.constant(self.step.reference)))
        loss, norm, skipped = (self.processes.local(result)[0] for result in results)
        return loss, norm, skipped

    def prediction_step(self, features: Any, labels: Any, nb_instances_in_global_batch: Any) -> Any:
        """Return the logits of a batch on one replica, and note its loss.

        Args:
            nb_instances_in_global_batch: The examples in the batch of all replicas.
        """
        per_example_loss, logits = self.run_model(features, labels, False)
        if per_example_loss is not None and labels is not None:
            self._window.note(*sum_and_weight(per_example_loss, labels, features))
        return logits

    def distributed_prediction_steps(self, batch: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """Return for each replica of this process the sum of the losses, their weight, and the logits."""
        pair, rows = batch
        size = tf.shape(tf.nest.flatten(pair)[0])[0]

        def on_replica(pair: Any, rows: Any) -> tuple[Any, Any, Any]:
            (features, labels), counts = self.processes.replica_slice(pair, rows)
            self._window.begin(counts)
            logits = self.prediction_step(features, labels, size)
            return self._window.loss, self._window.weight, logits

        losses, weights, logits = self.processes.run(on_replica, (pair, rows))
        local = self.processes.local
        return local(losses), local(weights), self._local_logits(logits)

    def _local_logits(self, logits: Any) -> list[Any]:
        count = self.processes.local_replicas
        parts = [self.processes.local(leaf) for leaf in tf.nest.flatten(logits)]
        return [tf.nest.pack_sequence_as(logits, [part[index] for part in parts]) for index in range(count)]

    def floating_point_ops(self, inputs: Any) -> int:
        """Return the floating point operations of a batch; 0 where the model cannot tell."""
        count = getattr(self.model, "floating_point_ops", None)
        return int(count(inputs)) if count is not None else 0

    # -- saving ---------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None) -> None:
        """Write the weights into ``output_dir`` as ``model.weights.h5``, which ``load_weights`` of Keras reads."""
        self.queue.flush()
        if self.is_world_process_zero():
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            snapshot.weights_writer(self.model, copy=False)(folder)


def check_keras() -> None:
    """Raise TracksideValueError unless Keras runs on TensorFlow."""
    if keras.config.backend() != "tensorflow":
        raise TracksideValueError(
            f"Keras runs on {keras.config.backend()}; set the environment variable KERAS_BACKEND=tensorflow before "
            "keras is imported"
        )
