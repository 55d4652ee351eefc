"""The TensorFlow trainer: the constructor and the documented methods, which subclasses may override."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from ..arguments.constructor import arguments_of, check_pair, names_arguments
from ..base_trainer import BaseTrainer
from ..evaluation.checks import dataset_to_evaluate
from ..overrides import ON_TENSORFLOW, documents, warn_of_unused_overrides
from .arguments import TFTrainingArguments
from .data.factory import make_batches, training_options
from .engine import TFEngine
from .objective.class_weights import checked_class_weight
from .optim.factory import create_optimizer, create_scheduler, own_optimizer, own_schedule
from .precision.factory import precision_for
from .precision.policies import policy_for_new_layers
from .seeding import set_seed


@documents
class TFTrainer(BaseTrainer):
    """Trains, evaluates and predicts with a Keras model.

    Args:
        model: Any Keras model with a compiled loss or ``loss_fn``, or one that is called with labels and returns
            (loss, logits); without one, ``model_init`` creates it. Only the loss of its compilation is used.
        args: The training arguments; by default, the default arguments.
        train_dataset: A tf.data.Dataset of examples (features, labels), a pair of arrays, or of nested arrays, or
            batches of Python code: a keras.utils.PyDataset, or a function that returns a generator.
        eval_dataset: A dataset, or a dict of datasets.
        compute_metrics: Takes an EvalPrediction; returns a dict of numbers.
        callbacks: Callbacks, as instances or classes.
        optimizers: A Keras optimizer, and a function from the updates completed to the learning rate, to use instead
            of those that ``args`` describe.
        model_init: Creates a new model at each call of train(), in the strategy's scope; takes nothing, or a trial.
        loss_fn: A loss as ``Model.compile`` takes it, or a function of (labels, outputs) that returns the loss of each
            example, or one number, their mean.
        class_weight: Weights of the losses of classes in training, by the number of the class, as in ``Model.fit``.

    Raises:
        ArgumentError: If arguments contradict each other.
    """

    args: TFTrainingArguments
    _engine: TFEngine

    @names_arguments
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
        class_weight: Mapping[int, float] | None = None,
    ) -> None:
        check_keras()
        args = arguments_of(args, TFTrainingArguments)
        check_pair(optimizers)
        warn_of_unused_overrides(self, TFTrainer, ON_TENSORFLOW)
        _ = args.strategy  # several processes can be joined only before any operation runs
        set_seed(args.seed, deterministic=args.full_determinism)
        self.processing_class: Any = None
        self.class_weight: dict[int, float] | None = checked_class_weight(class_weight)
        optimizers = own_optimizer(optimizers[0]), own_schedule(optimizers[1])
        super().__init__(
            model, args, train_dataset, eval_dataset, compute_metrics, callbacks, optimizers, loss_fn, model_init
        )

    def _make_engine(self) -> TFEngine:
        return TFEngine(self, self._dispatcher, self._overrides)

    def _check_model(self) -> None:
        if isinstance(self.model, type) or not callable(getattr(self.model, "call", None)):
            found = type(self.model).__name__
            cure = f" {self.model.__name__}, which is not an instance" if isinstance(self.model, type) else ""
            raise TracksideTypeError(f"TFTrainer needs model, a Keras model, or model_init; it got {found}{cure}")

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new model from ``model_init``, created in the strategy's scope and in the requested precision."""
        with self.args.strategy.scope(), policy_for_new_layers(precision_for(self.args).policy):
            return super().call_model_init(trial)

    # -- data -----------------------------------------------------------------------------------------------------

    def get_train_tfdataset(self) -> Any:
        """Return the training batches as a tf.data.Dataset of (features, labels), each for all replicas together.

        It is called at the beginning of each epoch, whose order is a function of (seed, epoch).
        """
        batches = make_batches(self.train_dataset, **training_options(self.args))
        return batches.as_dataset(self._engine.epoch_number)

    def get_eval_tfdataset(self, eval_dataset: Any = None) -> Any:
        """Return the batches of ``eval_dataset``, or of the trainer's dataset, each example once."""
        return self.get_test_tfdataset(dataset_to_evaluate(eval_dataset, self.eval_dataset))

    def get_test_tfdataset(self, test_dataset: Any) -> Any:
        """Return the batches of ``test_dataset``, each example once, in order."""
        return make_batches(test_dataset, batch_size=self.args.eval_batch_size).as_dataset()

    def num_examples(self, dataset: Any) -> int:
        """Return the number of examples in ``dataset``; 0 if unknown."""
        return super().num_examples(dataset)

    # -- optimizer and schedule -----------------------------------------------------------------------------------

    def create_optimizer(self) -> Any:
        """Create the optimizer, unless it exists, and return it."""
        if self.optimizer is None:
            self.optimizer: Any = create_optimizer(self.model, self.args)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule, unless it exists, and return it."""
        if self.lr_scheduler is None:
            self.lr_scheduler: Any = create_scheduler(optimizer or self.optimizer, self.args, num_training_steps)
        return self.lr_scheduler

    # -- the step: all of this runs while a tf.function is traced ---------------------------------------------------

    def run_model(self, features: Any, labels: Any, training: bool) -> tuple[Any, Any]:
        """Return the loss of each example (None without labels) and the logits.

        A single number as the loss is the mean of the batch. Evaluation reports the results of overrides, too.
        """
        return self._engine.train_step.run_model(features, labels, training)

    def compute_loss(self, labels: Any, logits: Any) -> Any:
        """Return the loss of each example for a model that does not compute its own; not called without labels.

        Losses of labels that are -100 do not count.
        """
        return self._engine.train_step.compute_loss(labels, logits)

    def training_step(self, features: Any, labels: Any, nb_instances_in_global_batch: Any) -> list[Any]:
        """Return the gradients of a micro-batch's share of the update, on one replica.

        An override that does not call this one returns a pair: the gradients of the mean loss of the micro-batch, in
        the order of ``model.trainable_variables``, and that loss.

        Args:
            nb_instances_in_global_batch: The divisor of sums of losses: the number of examples in a whole update, over
                all replicas and micro-batches. If an update has another number, or labels that do not count, the
                gradients are corrected at the end.
        """
        return self._engine.train_step.training_step(features, labels, nb_instances_in_global_batch)

    def apply_gradients(self, features: Any, labels: Any, nb_instances_in_global_batch: Any) -> None:
        """Add the last micro-batch of an update, and step the optimizer with the gradients of all micro-batches.

        If this method or distributed_training_steps is overridden, no callback can listen inside an update.
        """
        self._engine.train_step.apply_gradients(features, labels, nb_instances_in_global_batch)

    def distributed_training_steps(self, batch: Any) -> tuple[Any, Any, Any]:
        """Do an update on every replica; return its loss, gradient norm, and whether it was skipped.

        Args:
            batch: The micro-batches of the update, and the rows of each replica in them.
        """
        return self._engine.train_step.distributed_training_steps(batch)

    def prediction_step(self, features: Any, labels: Any, nb_instances_in_global_batch: Any) -> Any:
        """Return the logits of a batch on one replica, and record its loss.

        Args:
            nb_instances_in_global_batch: The number of examples in the batch of all replicas.
        """
        return self._engine.evaluation.prediction_step(features, labels)

    def distributed_prediction_steps(self, batch: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the sum of the losses, their weight, and the logits for each replica of this process."""
        return self._engine.evaluation.distributed_prediction_steps(batch)

    @property
    def gradients(self) -> list[Any]:
        """The gradients of this update, from on_pre_optimizer_step on, in the order of the trainable variables."""
        return self._engine.train_step.compiled.gradients

    @property
    def trace_counts(self) -> Counter[str]:
        """Number of traces of each function in the current or last run, by name."""
        return self._engine.trace_counts


def check_keras() -> None:
    """Raise TracksideValueError unless Keras runs on TensorFlow."""
    if keras.config.backend() != "tensorflow":
        raise TracksideValueError(
            f"Keras runs on {keras.config.backend()}; set the environment variable KERAS_BACKEND=tensorflow before "
            "keras is imported"
        )
