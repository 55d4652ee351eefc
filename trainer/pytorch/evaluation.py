"""Evaluation in PyTorch: the batches, one step on each, and moving its outputs to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from trackside.callbacks.errors import TracksideValueError

from ..base_engine.engine import BaseEngine, EnginePart
from ..engine import EvaluationStep, StepResult
from ..evaluation.output_collector import map_nested
from ..train_step import StepContext, TrainBatch
from ._torch_util import NULL_CONTEXT
from .batches import fetching
from .batches.model_outputs import logits_in, loss_in, loss_of_labelled, loss_or_none
from .batches.parts import map_batch
from .data import loader
from .distributed.strategy import DistributedStrategy
from .inspection.graph import operations_kept
from .inspection.misfit import TORCHS, explain
from .model_io import ModelIO
from .precision.eval_mode import eval_mode
from .precision.factory import DTYPES
from .train_step import TorchTrainStep


class TorchEvaluation(EnginePart, EvaluationStep):
    """Runs evaluation batches through a PyTorch model.

    Args:
        engine: Its trainer's model is evaluated; loaders, ``prediction_step`` and ``compute_loss`` are called,
            overridden or not. Its train_step computes the loss as in training.
    """

    model_io: ModelIO
    strategy: DistributedStrategy

    def __init__(self, engine: BaseEngine) -> None:
        super().__init__(engine)
        args = self.trainer.args
        self.train_step: TorchTrainStep = cast(TorchTrainStep, engine.train_step)
        name = "bf16" if args.bf16_full_eval else "fp16" if args.fp16_full_eval else ""
        self.dtype: torch.dtype | None = DTYPES.get(name)
        self.delay: int | None = fetching.delay_on(args.device)
        self._own_step: Callable[..., Any] | None = None

    @property
    def doubt(self) -> str:  # type: ignore[override]  # known only when the loss is
        """Why the weights of batches may not be what they should be; empty if they are."""
        return self.train_step.observer.doubt

    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's evaluation dataset if it is None."""
        return cast(Iterable[Any], self.trainer.get_eval_dataloader(dataset))

    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""
        return cast(Iterable[Any], self.trainer.get_test_dataloader(dataset))

    def num_examples(self, batches: Any) -> int | None:
        """Return the number of examples in ``batches``; None if it is unknown."""
        return loader.num_examples(batches)

    def is_dict_of_datasets(self, dataset: Any) -> bool:
        """Return whether ``dataset`` is a dict of datasets by name."""
        return isinstance(dataset, dict)

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Return a context in which the model is in evaluation mode, with a separate memory of ``past_index``."""
        trainer = self.trainer
        self.strategy.move(trainer.model, trainer.args.device)
        past = self.model_io.past
        self.model_io.inspect()
        self.train_step.take_overrides()
        self._own_step = self.overrides.method("prediction_step") if "prediction_step" in self.overrides else None
        self.strategy.share_buffers(self.model_io.model)
        try:
            with self.train_step.optimizer_mode.evaluating(), eval_mode(trainer.model, self.dtype):
                yield
        finally:
            self.model_io.past = past

    def counted(self, batches: Iterable[Any]) -> Iterator[TrainBatch]:
        """Return the batches, each with the number of its examples that count."""
        return loader.counted(
            batches, self.model_io.examples_in, rank=self.strategy.rank, world_size=self.strategy.world_size
        )

    def evaluation_step(
        self, batch: TrainBatch, prediction_loss_only: bool, ignore_keys: list[str] | None
    ) -> StepResult:
        """Run one batch through the model."""
        step, model_io, examples = self.train_step, self.model_io, batch.examples
        placed = step.place(batch.inputs)
        inputs = placed if self.dtype is None else _cast(placed, self.dtype)
        predict = self._own_step or self._predict
        # as one of several micro-batches, so that its items are counted
        interrupted, step.context = step.context, (context := StepContext(0, 2, examples == 0))
        model_io.examples_in.known = inputs, examples or 1
        try:
            loss, logits, labels = predict(self.trainer.model, inputs, prediction_loss_only, ignore_keys)
            weight = context.items
            if weight is None and loss is not None:
                weight = model_io.rule.count(labels, inputs, model_io.examples_in)
        finally:
            step.context, model_io.examples_in.known = interrupted, (None, 0)
        if inputs is not placed and labels is not None and self._own_step is None:
            labels = model_io.labels_of(placed)  # for the metrics, unchanged from the dataset
        kept = self._main_input(placed) if "inputs" in self.trainer.args.include_for_metrics else None
        self.strategy.end_step()
        return StepResult(loss, weight, logits, labels, examples, kept)

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None
    ) -> tuple[Any, Any, Any]:
        """Return (loss, logits, labels) of a batch, each None if missing."""
        return self._predict(model, self.train_step.place(inputs), prediction_loss_only, ignore_keys)

    def _predict(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None
    ) -> tuple[Any, Any, Any]:
        """Return (loss, logits, labels) of a batch on the device of this process."""
        model_io, preprocess = self.model_io, self.trainer.preprocess_logits_for_metrics
        labels = model_io.labels_of(inputs)
        forward = self.train_step.precision.forward() if self.dtype is None else NULL_CONTEXT
        if forward is NULL_CONTEXT and not torch.is_grad_enabled():  # contexts would cost as much as the rest
            loss, result, outputs = self._losses_and_outputs(model, inputs, labels, prediction_loss_only)
        else:
            with torch.no_grad(), forward:
                loss, result, outputs = self._losses_and_outputs(model, inputs, labels, prediction_loss_only)
        is_read = isinstance(loss, Tensor) and loss.requires_grad  # by its operations, which then can be let go
        loss = loss.detach() if is_read else loss
        if prediction_loss_only:
            return loss, None, None
        ignored = model_io.ignored_outputs if ignore_keys is None else ignore_keys
        logits = logits_in(outputs, ignore_keys=ignored, loss=result)
        logits = map_nested(torch.Tensor.detach, logits) if is_read else logits
        return loss, logits if preprocess is None else preprocess(logits, labels), labels

    def _losses_and_outputs(
        self, model: nn.Module, inputs: Any, labels: Any, prediction_loss_only: bool
    ) -> tuple[Any, Any, Any]:
        """Return the mean loss of a batch, the loss as it was computed, and the model's outputs."""
        step, observer = self.train_step, self.train_step.observer
        if labels is not None or self.model_io.has_own_loss:
            observer.look_before_training(inputs)
        if observer.is_read_only:
            with operations_kept():
                result, outputs = self._result_and_outputs(model, inputs, labels, prediction_loss_only)
        else:
            result, outputs = self._result_and_outputs(model, inputs, labels, prediction_loss_only)
        if result is None:
            return None, None, outputs
        loss = step.total_loss(_as_tensor(result), inputs)
        has_tensors = isinstance(result, Tensor) or (
            type(result) is dict and all(isinstance(part, Tensor) for part in result.values())
        )
        if has_tensors:
            loss = observer.mean_in_evaluation(loss, inputs, step.context.items)
        return loss, result, outputs

    def _result_and_outputs(self, model: nn.Module, inputs: Any, labels: Any, prediction_loss_only: bool) -> Any:
        """Return the loss of a batch as it is computed, None without one, and the model's outputs."""
        model_io = self.model_io
        computes_loss = self.trainer.loss_fn is not None or self.trainer.args.label_smoothing_factor > 0
        if model_io.has_own_loss or (labels is not None and computes_loss):
            return self._loss_and_outputs(model, inputs, needs_outputs=not prediction_loss_only)
        try:
            outputs = model_io.call(model, inputs, with_labels=labels is not None)
        except TORCHS as error:
            explain(error, model_io.model)
            raise
        find = loss_or_none if labels is None else loss_in if prediction_loss_only else loss_of_labelled
        return None if computes_loss else find(outputs), outputs

    def _loss_and_outputs(self, model: nn.Module, inputs: Any, *, needs_outputs: bool) -> tuple[Any, Any]:
        """Return the result of compute_loss, and the model's outputs if they are needed, from one forward pass."""
        if not needs_outputs:
            return self.train_step.loss_of(model, inputs), None
        if self.model_io.loss_takes_outputs:
            result, outputs = self.train_step.loss_of(model, inputs, return_outputs=True)
            return result, outputs
        seen: list[Any] = []
        hook = model.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
        try:
            result = self.train_step.loss_of(model, inputs)
        finally:
            hook.remove()
        if not seen:
            raise TracksideValueError(
                "compute_loss did not call the model, so that there are no predictions. Take return_outputs and return "
                "(loss, outputs) if it is True; or ask for the loss only: prediction_loss_only=True, and evaluate() "
                "without compute_metrics"
            )
        return result, seen[-1]

    def _main_input(self, inputs: Any) -> Any:
        """Return the main input of a transformers model; the whole batch for other models."""
        name = getattr(self.model_io.model, "main_input_name", None)
        return inputs[name] if isinstance(inputs, Mapping) and name in inputs else inputs

    def metrics(self) -> dict[str, Any]:
        """Return nothing: a model of PyTorch has no metrics of its own."""
        return {}

    def fetch(self, nested: Any) -> Callable[[], Any]:
        """Begin to copy nested tensors to the host; return a function that waits for them, and returns numpy arrays."""
        return fetching.fetch(nested) if self.delay else partial(fetching.arrays_of, nested)

    def for_metrics(self, nested: Any) -> Any:
        """Return nested numpy arrays as tensors of the device, as the transformers Trainer gives them."""
        device = self.trainer.args.device
        return map_nested(lambda leaf: torch.as_tensor(leaf, device=device) if _is_numeric(leaf) else leaf, nested)


def _is_numeric(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc"


def _as_tensor(loss: Any) -> Any:
    """Return a loss that is a number of Python or numpy as a tensor."""
    return torch.as_tensor(loss) if isinstance(loss, (float, np.number, np.ndarray)) else loss


def _cast(inputs: Any, dtype: torch.dtype) -> Any:
    """Return inputs in the precision of an evaluation in bf16 or fp16."""
    return map_batch(lambda x, _: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)
