"""Evaluating and predicting, as both trainers do it."""

from __future__ import annotations

import inspect
import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from trackside.callbacks.errors import ArgumentError

from ..memory_metrics import DeviceMemory, MemoryWatch
from ..outputs import PredictionOutput, speed_metrics
from .evaluation_loop import Evaluator, run_evaluation

logger = logging.getLogger("trackside.trainer")


class Predicting(Evaluator):
    """The part of a trainer that evaluates and predicts."""

    eval_dataset: Any
    log: Callable[..., None]
    _update_context: Callable[..., None]
    guarded: Callable[[], AbstractContextManager[Any]]
    has_own: Callable[..., bool]

    @abstractmethod
    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's own evaluation dataset if it is None."""

    @abstractmethod
    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""

    def counted(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return the batches as `evaluation_step` takes them."""
        return batches

    @abstractmethod
    def evaluating(self) -> AbstractContextManager[Any]:
        """Return a context in which the model is in evaluation mode."""

    @abstractmethod
    def num_examples_or_none(self, dataloader: Any) -> int | None:
        """Return the number of examples behind ``dataloader``, where it can be known."""

    def are_datasets(self, dataset: Any) -> bool:
        """Return whether ``dataset`` is a dict of datasets by their names."""
        return isinstance(dataset, dict)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the metrics on ``eval_dataset``, or on the trainer's own; log them and send on_evaluate.

        Args:
            eval_dataset: A dataset, or a dict of datasets, whose names then go into the metrics' names.
            ignore_keys: Outputs of the model to leave out of the predictions.
            metric_key_prefix: What every metric's name begins with.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if self.are_datasets(dataset):
            metrics: dict[str, float] = {}
            for name, part in dataset.items():
                metrics |= self._evaluate_one(part, ignore_keys, f"{metric_key_prefix}_{name}")
        else:
            metrics = self._evaluate_one(eval_dataset, ignore_keys, metric_key_prefix)
        self.dispatcher.send("on_evaluate", metrics=metrics)
        return metrics

    def _evaluate_one(self, dataset: Any, ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        batches = self.evaluation_batches(dataset)
        only_loss = True if self.compute_metrics is None else None
        output = self._run_prediction(batches, "Evaluation", only_loss, ignore_keys, prefix)
        self.log(output.metrics)
        return output.metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Return predictions, labels and metrics on ``test_dataset``, and send on_predict."""
        output = self._run_prediction(
            self.test_batches(test_dataset), "Prediction", None, ignore_keys, metric_key_prefix
        )
        self.dispatcher.send("on_predict", metrics=output.metrics)
        return output

    def _trial_metrics(self) -> dict[str, Any] | None:
        """Return what evaluation returns, with the values of one batch: to know the names before the first step.

        Sends no events. None where one batch is not enough for compute_metrics, where compute_metrics keeps a sum over
        batches, and where a subclass adds to what evaluation returns.
        """
        if self.args.batch_eval_metrics or self.has_own("evaluate", "prediction_loop"):
            return None
        datasets = self.eval_dataset if self.are_datasets(self.eval_dataset) else {"": None}
        metrics: dict[str, Any] = {}
        for name, dataset in datasets.items():
            prefix = f"eval_{name}" if name else "eval"
            trial = partial(self._try_one_batch, dataset, prefix)
            try:
                metrics |= self.collectives.outcome("the trial evaluation", trial)[0]
            except Exception as error:
                logger.warning("the metrics cannot be checked before the first step: one batch gave %r", error)
                return None
            metrics |= speed_metrics(prefix, 1.0, 1, 1)
        return metrics

    def _try_one_batch(self, dataset: Any, prefix: str) -> dict[str, Any]:
        with self.evaluating():
            output, _, _ = run_evaluation(
                self,
                self.counted(self.evaluation_batches(dataset)),
                expected=None,
                prediction_loss_only=False,
                ignore_keys=None,
                prefix=prefix,
                max_batches=1,
            )
        return output.metrics

    def _run_prediction(
        self, batches: Any, description: str, only_loss: bool | None, ignore_keys: list[str] | None, prefix: str
    ) -> PredictionOutput:
        start_s, memory = time.perf_counter(), self.watch_memory()
        self._update_context(eval_dataloader=batches)
        self._counted: tuple[int | None, int] = (None, 0)
        with self.guarded():
            output = self.prediction_loop(batches, description, only_loss, ignore_keys, prefix)
        examples, steps = self._counted
        output.metrics.update(speed_metrics(prefix, time.perf_counter() - start_s, examples, steps))
        output.metrics.update(memory.stop(prefix) if memory else {})
        return output

    def watch_memory(self) -> MemoryWatch | None:
        """Return a watch over memory if ``args.skip_memory_metrics`` is False."""
        return None if self.args.skip_memory_metrics else MemoryWatch(self.device_memory)

    def device_memory(self, reset: bool) -> DeviceMemory | None:
        """Return the memory of the accelerator, its peak set back first if ``reset``; None without one."""
        return None

    def prediction_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> PredictionOutput:
        """Return predictions, labels and metrics over the batches of ``dataloader``, speed not included."""
        only_loss = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        with self.evaluating():
            output, examples, steps = run_evaluation(
                self,
                self.counted(dataloader),
                expected=self.num_examples_or_none(dataloader),
                prediction_loss_only=only_loss,
                ignore_keys=ignore_keys,
                prefix=metric_key_prefix,
            )
        if not examples:
            logger.warning("%s went over no example: the dataset is empty", description)
        self._counted = (examples, steps)
        return output


def check_compute_metrics(compute_metrics: Callable[..., Any] | None, *, by_batch: bool) -> None:
    """Raise ArgumentError if ``compute_metrics`` cannot be called batch by batch though it is to be."""
    if compute_metrics is None or not by_batch:
        return
    parameters = inspect.signature(compute_metrics).parameters.values()
    if not any(item.name == "compute_result" or item.kind is item.VAR_KEYWORD for item in parameters):
        allowed = (
            "only with compute_metrics(prediction, compute_result), which returns metrics if compute_result is True"
        )
        raise ArgumentError("batch_eval_metrics", True, allowed)
