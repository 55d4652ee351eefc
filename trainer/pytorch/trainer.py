"""The PyTorch trainer: the constructor and the documented methods, which subclasses may override."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

from ..arguments.constructor import arguments_of, names_arguments
from ..base_trainer import BaseTrainer
from ..evaluation.checks import dataset_to_evaluate
from ..optim.choice import check_class_and_options
from ..outputs import Dataset
from ..overrides import advice, documents, warn_of_unused_overrides
from ._torch_util import distributed_part, names_without_values, unwrap
from .arguments import TrainingArguments
from .batches.parts import batch_size
from .data.collators import DataCollatorWithPadding, default_data_collator
from .data.columns import drop_unused_columns
from .data.factory import check_dataset, make_loader, tell_of_loader
from .dropin import surface
from .dropin.counted_loss import CountedLoss
from .engine import TorchEngine
from .inspection.explanation import BatchExplanation, explain_batch
from .inspection.misfit import check_loss_fn
from .optim.factory import create_optimizer, create_scheduler
from .optim.several import as_one_optimizer, as_one_schedule
from .seeding import set_seed

READ_BATCHES = ("compute_loss", "training_step", "prediction_step", "batch_size_of", "floating_point_ops")
"""Methods that get whole batches, columns that the model does not take included."""


@documents
class Trainer(BaseTrainer):
    """Trains, evaluates and predicts with a PyTorch model.

    Args:
        model: Any ``nn.Module``; without one, ``model_init`` creates it.
        args: The training arguments; by default, the default arguments.
        data_collator: Converts a list of examples to a batch.
        train_dataset: Map-style or iterable dataset of dicts, tuples or objects; or a DataLoader, used as it is.
        eval_dataset: A dataset or a DataLoader, or a dict of them.
        processing_class: Tokenizer, processor or similar; saved with the model, and used for padding.
        tokenizer: Former name of ``processing_class``.
        model_init: Creates a new model at each call of train(); takes nothing, or a trial.
        compute_metrics: Takes an EvalPrediction; returns a dict of numbers.
        callbacks: Callbacks, as instances or classes.
        optimizers: An optimizer and a schedule to use instead of those that ``args`` describe.
        loss_fn: Called as ``loss_fn(outputs, labels)`` for models that return no loss.
        loss_items_fn: Called with a batch; returns the number of items in its mean loss, where the trainer cannot
            tell; see `explain_batch`.
        preprocess_logits_for_metrics: Called as ``fn(logits, labels)`` on the device before logits are kept.
        optimizer_cls_and_kwargs: A class of optimizer and its options, called with the parameter groups.
        compute_loss_func: Called as ``compute_loss_func(outputs, labels, num_items_in_batch=...)``, in place of
            ``loss_fn``.

    Raises:
        ArgumentError: If arguments contradict each other.
    """

    args: TrainingArguments
    model: nn.Module
    _engine: TorchEngine

    @names_arguments
    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        *,
        loss_fn: Callable[..., Tensor] | None = None,
        loss_items_fn: Callable[[Any], Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
    ) -> None:
        args = arguments_of(args, TrainingArguments)
        if compute_loss_func is not None:
            loss_fn = CountedLoss(compute_loss_func, self._items_of, instead_of=loss_fn)
        if optimizer_cls_and_kwargs is not None:
            check_class_and_options(optimizer_cls_and_kwargs)
        warn_of_unused_overrides(self, Trainer)
        set_seed(args.seed, deterministic=args.full_determinism)
        self.processing_class: Any = processing_class or tokenizer
        self.data_collator: Callable[[list[Any]], Any] = data_collator or _default_collator(self.processing_class)
        self.loss_items_fn = loss_items_fn
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self._optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        super().__init__(
            model, args, train_dataset, eval_dataset, compute_metrics, callbacks, optimizers, loss_fn, model_init
        )

    if not TYPE_CHECKING:  # an editor reports unknown attributes

        def __getattr__(self, name: str) -> Any:  # called only for missing attributes
            raise AttributeError(advice(self, name))

    def _make_engine(self) -> TorchEngine:
        return TorchEngine(self, self._dispatcher, self._overrides)

    def _check_model(self) -> None:
        check_loss_fn(self.loss_fn)
        model: Any = self.model
        found = type(model).__name__
        if not isinstance(model, nn.Module):
            found += f" {model.__name__}, which is not an instance" if isinstance(model, type) else ""
            raise TracksideTypeError(f"Trainer needs model, an nn.Module, or model_init; it got {found}")
        if empty := names_without_values(model, self.args.device):
            raise TracksideValueError(
                f"weights of {found} are on the device meta, where they have no values: {', '.join(empty[:3])}. Create "
                "the model outside of torch.device('meta') and init_empty_weights(), or load its weights before"
            )
        if wrapper := distributed_part(model, by_trainer=bool(self.args.fsdp)):
            raise TracksideTypeError(
                f"the model is in {wrapper} already; give Trainer the module inside. It distributes it itself, over "
                "the processes of the launcher: by DistributedDataParallel, or by the arguments fsdp and fsdp_config"
            )

    # -- data -----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Iterable[Any]:
        """Return the training batches of this process, in an order that is a function of (seed, epoch)."""
        args = self.args
        return self._loader(
            self.train_dataset,
            batch_size=args.train_batch_size,
            global_batch_size=args.global_micro_batch_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=args.train_sampling_strategy != "sequential",
            drop_last=args.dataloader_drop_last,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Iterable[Any]:
        """Return the batches of ``eval_dataset``, or of the trainer's (the one of that name), each example once."""
        return self.get_test_dataloader(dataset_to_evaluate(eval_dataset, self.eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Iterable[Any]:
        """Return the batches of ``test_dataset``, each example once, in order."""
        args = self.args
        return self._loader(
            test_dataset, batch_size=args.eval_batch_size, seed=args.seed, shuffle=False, drop_last=False
        )

    def _loader(self, dataset: Any, **options: Any) -> Iterable[Any]:
        """Return a loader of the batches of this process, without the columns that the model does not take.

        A DataLoader of the user is returned as it is.
        """
        if isinstance(dataset, DataLoader):
            tell_of_loader(dataset, options["batch_size"], self._engine.strategy.rank)
            return dataset
        check_dataset(dataset)
        collate = self.data_collator
        if self.args.remove_unused_columns:
            reads = self.loss_items_fn is not None or self._overrides.any(*READ_BATCHES)
            collate = drop_unused_columns(collate, dataset, unwrap(self.model), self.label_names, reads_batches=reads)
        strategy = self._engine.strategy
        return make_loader(
            dataset,
            collate_fn=collate,
            args=self.args,
            rank=strategy.rank,
            world_size=strategy.world_size,
            **options,
        )

    @property
    def label_names(self) -> list[str]:
        """Names of the labels in a batch that is a dict; setting it sets ``args.label_names``."""
        return self._engine.model_io.label_names

    @label_names.setter
    def label_names(self, names: Sequence[str]) -> None:
        self.args.label_names = list(names)
        self._engine.model_io.inspect()

    # -- optimizer and schedule -----------------------------------------------------------------------------------

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Create the optimizer and the schedule unless they exist; overrides may set or return them."""
        made = self.create_optimizer()
        self.optimizer = as_one_optimizer(made if self.optimizer is None else self.optimizer)
        made = self._overrides.method("create_scheduler")(num_training_steps, self.optimizer)
        self.lr_scheduler = as_one_schedule(made if self.lr_scheduler is None else self.lr_scheduler)

    def create_optimizer(self) -> Any:
        """Create the optimizer, unless it exists, and return it; an override may return several in a dict or list."""
        if self.optimizer is None:
            own = self._overrides.method("get_optimizer_cls_and_kwargs")
            pair = self._optimizer_cls_and_kwargs or own(self.args, self.model)
            self.optimizer: Any = create_optimizer(
                self.model, self.args, pair, self.get_decay_parameter_names(self.model)
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule, unless it exists, and return it; an override may return several in a dict or list."""
        if self.lr_scheduler is None:
            self.lr_scheduler: Any = create_scheduler(optimizer or self.optimizer, self.args, num_training_steps)
        return self.lr_scheduler

    # -- the step -------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, as a mean or as ``(loss_sum, weight)``.

        Overrides may take fewer arguments; evaluation reports their result.

        Args:
            model: The model, wrapped as the step needs it.
            inputs: The batch, on the device.
            return_outputs: Return ``(loss, outputs)``.
            num_items_in_batch: The number of items in this batch, the divisor of a sum over items.
        """
        return self._engine.train_step.compute_loss(model, inputs, return_outputs)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Run the forward and the backward pass of a micro-batch; return its mean loss, detached.

        Args:
            num_items_in_batch: Ignored; accepted for overrides that pass it on.
        """
        return self._engine.train_step.training_step(model, inputs)

    def explain_batch(self, batch: Any = None) -> BatchExplanation:
        """Return what the trainer makes of a batch: examples, labels, the loss, and over how many items it is a mean.

        The model is called once, in evaluation mode; nothing is trained.

        Args:
            batch: A batch as the collator makes it; by default, the first one of training.
        """
        if batch is None:
            with self._engine.checkpoint.random_state_kept():
                batch = next(iter(self.get_train_dataloader()))
        step = self._engine.train_step
        self._engine.strategy.move(self.model, self.args.device)
        return explain_batch(self, step, step.place(batch))

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return the context of a forward pass, which sets its precision."""
        return self._engine.train_step.precision.forward()

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a mean loss with this micro-batch's share of the update."""
        self._engine.train_step.backward(loss)

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return a batch on the device of this process, for overrides of training_step."""
        return self._engine.train_step.place(inputs)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Return (loss, logits, labels) of a batch, each None if missing."""
        return self._engine.evaluation.prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def batch_size_of(self, batch: Any) -> int:
        """Return the number of examples in a batch.

        It is called for batches of a loader that is not the trainer's own, whose sampler knows the number, and for
        parts of a batch. An object declares it with ``num_examples``, ``num_graphs`` or ``batch_size``; otherwise it
        is the leading size of most parts of the batch.
        """
        return batch_size(batch)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return the floating point operations of a batch; 0 if neither the model nor its size tells them."""
        count = self._engine.model_io.flos_of
        return int(count(inputs)) if count is not None else 0

    def _items_of(self, labels: Any) -> Any:
        model_io = self._engine.model_io
        return model_io.rule.count(labels, {"labels": labels}, model_io.examples_in)

    # -- names of the transformers Trainer, for scripts that were written for it ------------------------------------

    accelerator: cached_property[Any] = cached_property(surface.accelerator)
    callback_handler: cached_property[Any] = cached_property(surface.callback_handler)
    is_in_train: property = property(surface.is_in_train)
    _train_batch_size: property = property(surface.micro_batch_size)
    is_model_parallel: property = property(surface.is_model_parallel)
    get_num_trainable_parameters = surface.get_num_trainable_parameters
    get_decay_parameter_names = surface.get_decay_parameter_names
    get_learning_rates = surface.get_learning_rates
    get_optimizer_group = surface.get_optimizer_group
    get_optimizer_cls_and_kwargs = staticmethod(surface.get_optimizer_cls_and_kwargs)
    get_total_train_batch_size = surface.get_total_train_batch_size
    get_batch_samples = surface.get_batch_samples
    num_tokens = staticmethod(surface.num_tokens)
    metrics_format = staticmethod(surface.metrics_format)
    create_model_card = surface.create_model_card


def _default_collator(processing_class: Any) -> Callable[[list[Any]], Any]:
    pads = processing_class is not None and hasattr(processing_class, "pad")
    return DataCollatorWithPadding(processing_class) if pads else default_data_collator
