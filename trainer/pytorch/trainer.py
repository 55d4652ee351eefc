"""The PyTorch trainer: what the reference documentation lets you override, and the loop's backend below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import ArgumentError, TracksideTypeError

from ..base_trainer import check_args
from ..search.trial import takes_trial
from ..transformers_compat import advice, warn_of_unused_overrides
from ._torch_util import unwrap
from .arguments import TrainingArguments
from .data import factory as data
from .data.collators import DataCollatorWithPadding, default_data_collator
from .engine import TorchBackend
from .loss import no_gradient_of, smoothed_loss
from .model_io import labels_of, logits_in, loss_in, loss_or_none, main_logits
from .optim.factory import create_optimizer, create_scheduler
from .seeding import set_seed


class Trainer(TorchBackend):
    """Trains, evaluates and predicts with a PyTorch model.

    Args:
        model: Any ``nn.Module``; without one, ``model_init`` makes it.
        args: The training arguments; without them, the defaults.
        data_collator: Makes a batch of a list of examples.
        train_dataset: Map-style or iterable dataset of dicts, tuples or objects.
        eval_dataset: A dataset, or a dict of datasets.
        processing_class: Tokenizer, processor or the like; saved with the model, and used to pad.
        tokenizer: The old name of ``processing_class``.
        model_init: Makes a new model at each call of train(); takes nothing, or a trial.
        compute_metrics: Gets an EvalPrediction, returns a dict of numbers.
        callbacks: Callbacks, as instances or classes.
        optimizers: An optimizer and a schedule to use instead of those that ``args`` describe.
        loss_fn: Called as ``loss_fn(outputs, labels)`` for models that return no loss.
        preprocess_logits_for_metrics: Called as ``fn(logits, labels)`` on the device before logits are kept.
        optimizer_cls_and_kwargs: A class of optimizer and its options, called with the parameter groups.

    Raises:
        ArgumentError: If arguments contradict each other.
    """

    args: TrainingArguments

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        tokenizer: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        *,
        loss_fn: Callable[..., Tensor] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
    ) -> None:
        args = TrainingArguments() if args is None else args
        check_args(args, TrainingArguments)
        warn_of_unused_overrides(self, Trainer)
        set_seed(args.seed, deterministic=args.full_determinism)
        if model is None and model_init is not None:
            model = model_init(None) if takes_trial(model_init) else model_init()
        if not isinstance(model, nn.Module):
            raise TracksideTypeError(f"Trainer needs model, an nn.Module, or model_init; it got {type(model).__name__}")
        if model_init is not None and optimizers != (None, None):
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
        self.processing_class = processing_class or tokenizer
        self.data_collator = data_collator or self._default_collator()
        self.optimizer, self.lr_scheduler = optimizers
        self._own_optimizers = optimizers
        self._optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self._set_up_backend()
        self._update_context()
        self.dispatcher.send("on_init_end")

    def __getattr__(self, name: str) -> Any:  # only asked for what is not there
        raise AttributeError(advice(self, name))

    # -- data -----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Iterable[Any]:
        """Return the training batches of this process, in an order that is a function of (seed, epoch)."""
        args = self.args
        return data.make_loader(
            self.train_dataset,
            batch_size=args.train_batch_size,
            global_batch_size=args.global_micro_batch_size,
            collate_fn=self._collate(self.train_dataset),
            args=args,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=True,
            drop_last=args.dataloader_drop_last,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Iterable[Any]:
        """Return the batches of ``eval_dataset``, or of the trainer's own, each example once."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ArgumentError("eval_dataset", None, "evaluate() needs an evaluation dataset")
        return self.get_test_dataloader(dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Iterable[Any]:
        """Return the batches of ``test_dataset``, each example once, in order."""
        return data.make_loader(
            test_dataset,
            batch_size=self.args.eval_batch_size,
            collate_fn=self._collate(test_dataset),
            args=self.args,
            seed=self.args.seed,
            shuffle=False,
            drop_last=False,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
        )

    def num_examples(self, dataloader: Any) -> int:
        """Return the number of examples behind ``dataloader``, over all processes."""
        return self.num_examples_or_none(dataloader) or 0

    def num_examples_or_none(self, dataloader: Any) -> int | None:
        """Return the number of examples behind ``dataloader``, where it can be known."""
        return data.num_examples(dataloader)

    def _default_collator(self) -> Callable[[list[Any]], Any]:
        pads = self.processing_class is not None and hasattr(self.processing_class, "pad")
        return DataCollatorWithPadding(self.processing_class) if pads else default_data_collator

    def _collate(self, dataset: Any) -> Callable[[list[Any]], Any]:
        """Return the collator, behind one that drops the columns which the model does not take."""
        if not self.args.remove_unused_columns or getattr(dataset, "column_names", None) is None:
            return self.data_collator
        return data.drop_unused_columns(self.data_collator, dataset, unwrap(self.model), self.label_names)

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
            self.optimizer = create_optimizer(self.model, self.args, self._optimizer_cls_and_kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule, unless there is one, and return it."""
        if self.lr_scheduler is None:
            self.lr_scheduler = create_scheduler(optimizer or self.optimizer, self.args, num_training_steps)
        return self.lr_scheduler

    # -- the step -------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, as a mean or as ``(loss_sum, weight)``.

        Override it at will, also with fewer arguments; evaluation reports what it returns.

        Args:
            model: The model, wrapped as the step needs it.
            inputs: The batch, on the device.
            return_outputs: Return ``(loss, outputs)``.
            num_items_in_batch: The items of this batch; a sum over items divided by it is the mean asked for.
        """
        labels = labels_of(inputs, self.label_names)
        smoothing = self.args.label_smoothing_factor
        if labels is None or (self.loss_fn is None and not smoothing):
            outputs = self._call(model, inputs, with_labels=True)
            loss = loss_in(outputs)
        else:
            outputs = self._call(model, inputs, with_labels=False)
            if self.loss_fn is not None:
                loss = self.loss_fn(outputs, labels)
            else:
                loss = smoothed_loss(main_logits(outputs), labels, smoothing, is_causal=self._is_causal)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Take a micro-batch forward and backward; return its mean loss, detached.

        Args:
            num_items_in_batch: Not needed; taken for overrides that hand it on.
        """
        with self.precision.forward():
            loss = self._mean_loss(self._compute_loss(model, inputs), inputs)
        self.backward(loss)
        return loss.detach()

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """Return the context that a forward pass runs in, which sets its precision."""
        return self.precision.forward()

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a mean loss with this micro-batch's share of the update."""
        share = self._window.share
        if self.precision.is_last_backward:
            self.step_timer.exchange()
        if not isinstance(share, Tensor) and share == 0.0:
            with no_gradient_of(loss, self.model) as nothing:
                self.precision.backward(nothing, share)
        else:
            self.precision.backward(loss, share)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Return (loss, logits, labels) of a batch, each None where there is none."""
        inputs = self.place(inputs)
        labels = labels_of(inputs, self.label_names)
        with torch.no_grad(), self.precision.forward() if self._eval_dtype is None else nullcontext():
            if labels is None and not self.has_own("compute_loss"):
                outputs = self._call(model, inputs, with_labels=False)
                loss = None if self.loss_fn is not None else loss_or_none(outputs)
                loss = None if loss is None else self._mean_loss(loss, inputs)
            else:
                result, outputs = self._loss_and_outputs(model, inputs)
                loss = self._mean_loss(result, inputs)
        if prediction_loss_only:
            return loss, None, None
        ignored = self._ignored_outputs if ignore_keys is None else ignore_keys
        logits = logits_in(outputs, ignore_keys=ignored)
        if self.preprocess_logits_for_metrics is not None:
            logits = self.preprocess_logits_for_metrics(logits, labels)
        return loss, logits, labels

    def floating_point_ops(self, inputs: Any) -> int:
        """Return the floating point operations of a batch; 0 where the model cannot tell."""
        count = getattr(unwrap(self.model), "floating_point_ops", None)
        return int(count(inputs)) if count is not None else 0

    # -- saving ---------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights (and configuration, and processing class) into ``output_dir``, from the first process.

        A checkpoint has what an override writes; where that are no weights, those of the model are added.
        """
        weights = self.processes.full_weights(self.model)
        if self.is_world_process_zero():
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._write_model(folder, weights)
