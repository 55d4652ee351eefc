"""Evaluation and prediction of a trainer: datasets, metrics, speed, records and events."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import NotPlainError
from trackside.callbacks.metrics import is_undefined

from ..callback_setup import update_context
from ..data.limits import first
from ..engine import Engine
from ..measuring.memory import MemoryWatch
from ..outputs import PredictionOutput, speed_metrics
from ..overrides import Overrides
from ..stop_signals import StopSignals
from .evaluation_loop import CurrentBatch, EvaluationRun
from .occupation import Occupation

logger: logging.Logger = logging.getLogger("trackside.trainer")


class Evaluator:
    """Evaluates and predicts with a trainer's model.

    Args:
        trainer: Its ``args``, ``eval_dataset`` and ``compute_metrics`` are read; its ``log`` and ``prediction_loop``
            are called, overridden or not.
        engine: The framework-specific part of the trainer.
        dispatcher: Sends the events.
        overrides: The documented methods that the trainer overrides.

    Attributes:
        is_training: Whether a run is going on.
        occupation: What the trainer is doing.
    """

    def __init__(self, trainer: Any, engine: Engine, dispatcher: Dispatcher, overrides: Overrides) -> None:
        self._trainer = trainer
        self._engine = engine
        self._dispatcher = dispatcher
        self._overrides = overrides
        self._counted: tuple[int | None, int] = (None, 0)
        self.is_training: bool = False
        self.occupation: Occupation = Occupation()
        self._signals: StopSignals | None = None
        self._told: set[str] = set()
        self._current: CurrentBatch = CurrentBatch()
        dispatcher.context["evaluation_batch"] = self._current
        self._dataset_shown: Any = None
        self._depth = 0
        self._memory_of_init: dict[str, float] = {}

    @contextmanager
    def within_training(self) -> Iterator[None]:
        """Return a context in which an evaluation leaves the random numbers of training as they were before it.

        Outside of it, evaluations draw on: predictions with random inputs differ from call to call.
        """
        self.is_training = True
        try:
            yield
        finally:
            self.is_training = False

    def _training_left_alone(self) -> AbstractContextManager[None]:
        return self._engine.checkpoint.random_state_kept() if self.is_training else nullcontext()

    @contextmanager
    def stop_at(self, signals: StopSignals) -> Iterator[None]:
        """Return a context for the evaluation that the loop asks for, and sends the events of.

        When a signal has been received, it raises EvaluationStopped.
        """
        self._signals = signals
        try:
            yield
        finally:
            self._signals = None

    def _is_stopped(self) -> bool:
        return self._signals is not None and self._signals.received is not None

    @property
    def examples(self) -> int | None:
        """Number of examples of the last evaluation or prediction."""
        return self._counted[0]

    def show_batches(self) -> None:
        """Let callbacks have the batches of the trainer's own evaluation dataset as ``eval_dataloader``."""
        dataset, evaluation = self._trainer.eval_dataset, self._engine.evaluation
        batches: Any = None
        if evaluation.is_dict_of_datasets(dataset):
            batches = {name: evaluation.evaluation_batches(part) for name, part in dataset.items()}
        elif dataset is not None or self._trainer.args.eval_strategy != "no":
            batches = evaluation.evaluation_batches(None)
        self._dataset_shown = dataset
        update_context(self._trainer, self._dispatcher, eval_dataloader=batches)

    @contextmanager
    def _shown(self, batches: Any) -> Iterator[None]:
        """Return a context in which callbacks have ``batches`` as ``eval_dataloader``."""
        before = self._dispatcher.context.get("eval_dataloader")
        update_context(self._trainer, self._dispatcher, eval_dataloader=batches)
        try:
            yield
        finally:
            update_context(self._trainer, self._dispatcher, eval_dataloader=before)

    def is_scheduled(self) -> bool:
        """Return whether this is the evaluation that the loop has asked for."""
        return self._signals is not None and not self._depth

    def evaluate(self, eval_dataset: Any, ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        """Return the metrics on ``eval_dataset``, or on the trainer's; log them; send the events of an evaluation."""
        with self.occupation.begin("evaluate()"):
            parts, own = self._batches_of_parts(eval_dataset, prefix), self._trainer.eval_dataset
            if self.is_scheduled():  # the loop sends the events, also those of an override
                return self._evaluate_all(parts, ignore_keys)
            several = {name.removeprefix(f"{prefix}_"): batches for name, batches in parts.items()}
            self._current.limit = self._trainer.args.limit_eval_batches
            with self._shown(parts.get(prefix, several)):
                self._dispatcher.send("on_evaluate_begin")
                if self._trainer.eval_dataset is not own:  # a callback has set another one
                    parts = self._batches_of_parts(eval_dataset, prefix)
                metrics = self._evaluate_all(parts, ignore_keys)
                self._dispatcher.send("on_evaluate", metrics=metrics, scheduled=False)
            return metrics

    def _batches_of_parts(self, eval_dataset: Any, prefix: str) -> dict[str, Any]:
        """Return the batches of a dataset, or of each of several, by the prefix of their metrics."""
        dataset = self._trainer.eval_dataset if eval_dataset is None else eval_dataset
        if self.is_training and eval_dataset is None and dataset is not self._dataset_shown:
            self.show_batches()
        with self._training_left_alone():
            batches_of = self._engine.evaluation.evaluation_batches
            return {name: batches_of(part) for name, part in self._parts(eval_dataset, prefix).items()}

    def _evaluate_all(self, parts: Mapping[str, Any], ignore_keys: list[str] | None) -> dict[str, float]:
        """Return the metrics on all parts."""
        metrics: dict[str, float] = {}
        self._depth += 1
        try:
            for prefix, batches in parts.items():
                metrics |= self._evaluate_one(batches, ignore_keys, prefix)
        finally:
            self._depth -= 1
        return metrics

    def _parts(self, given: Any, prefix: str) -> dict[str, Any]:
        """Return what is evaluated, by the prefix of its metrics; None for the trainer's own dataset."""
        dataset = self._trainer.eval_dataset if given is None else given
        named = self._engine.evaluation.is_dict_of_datasets(dataset)
        parts = {f"{prefix}_{name}": part for name, part in dataset.items()} if named else {prefix: given}
        if given is None and self._trainer.args.eval_on_train and self._trainer.train_dataset is not None:
            parts[f"{prefix}_train"] = self._trainer.train_dataset
        return parts

    def _evaluate_one(self, batches: Any, ignore_keys: list[str] | None, prefix: str) -> dict[str, float]:
        only_loss = True if self._trainer.compute_metrics is None else None  # None: as args.prediction_loss_only says
        with self._training_left_alone():
            output = self._timed(batches, "Evaluation", only_loss, ignore_keys, prefix)
        self._trainer.log(output.metrics)
        return output.metrics

    def predict(self, test_dataset: Any, ignore_keys: list[str] | None, prefix: str) -> PredictionOutput:
        """Return predictions, labels and metrics on ``test_dataset``; send on_predict_begin and on_predict."""
        with self.occupation.begin("predict()"):
            with self._training_left_alone():
                batches = self._engine.evaluation.test_batches(test_dataset)
            self._current.limit = self._limit_of_predictions
            with self._shown(batches):
                self._dispatcher.send("on_predict_begin")
                with self._training_left_alone():
                    output = self._timed(batches, "Prediction", None, ignore_keys, prefix)
                self._dispatcher.send("on_predict", metrics=output.metrics)
            return output

    @property
    def _limit_of_predictions(self) -> int | None:
        args = self._trainer.args
        return int(args.limit_eval_batches) if args.fast_dev_run and args.limit_eval_batches else None

    def _timed(
        self, batches: Any, description: str, only_loss: bool | None, ignore_keys: list[str] | None, prefix: str
    ) -> PredictionOutput:
        """Run the trainer's ``prediction_loop``, and add speed and memory to its metrics."""
        start_s, memory = time.perf_counter(), self.watch_memory()
        self._counted = (None, 0)
        with self._engine.propagate_errors(), self._shown(batches):
            name = "evaluation_loop" if "evaluation_loop" in self._overrides else "prediction_loop"
            loop = self._overrides.method(name)
            output = PredictionOutput(*loop(batches, description, only_loss, ignore_keys, prefix)[:3])
        examples, steps = self._counted
        output.metrics.update(plain(output.metrics, "metrics"))  # an overridden prediction_loop may return any values
        output.metrics.update(speed_metrics(prefix, time.perf_counter() - start_s, examples, steps))
        output.metrics.update(memory.stop(prefix) if memory else {})
        return output

    def prediction_loop(
        self,
        batches: Any,
        description: str,
        prediction_loss_only: bool | None,
        ignore_keys: list[str] | None,
        prefix: str,
    ) -> PredictionOutput:
        """Return predictions, labels and metrics over ``batches``, without speed metrics."""
        args, evaluation = self._trainer.args, self._engine.evaluation
        only_loss = args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        send = partial(self._dispatcher.send, "on_prediction_step")
        expected = evaluation.num_examples(batches)
        keeps = description == "Prediction"  # its predictions are what it is called for
        output, run = self._run(batches, prefix, only_loss, ignore_keys, expected=expected, keeps=keeps, on_step=send)
        if not run.examples:
            logger.warning("%s had no examples: the dataset is empty", description)
        self._counted = (run.examples, run.steps)
        return output

    def _run(
        self,
        batches: Any,
        prefix: str,
        only_loss: bool = False,
        ignore_keys: list[str] | None = None,
        *,
        expected: int | None = None,
        keeps: bool = False,
        **options: Any,
    ) -> tuple[PredictionOutput, EvaluationRun]:
        trainer, evaluation = self._trainer, self._engine.evaluation
        limit = self._limit_of_predictions if keeps else trainer.args.limit_eval_batches
        self._current.limit = limit
        run = EvaluationRun(
            self._engine,
            trainer.args,
            trainer.compute_metrics,
            expected=expected if limit is None else None,
            only_loss=only_loss,
            keeps=keeps,
            is_stopped=self._is_stopped,
            current=self._current,
        )
        with self.occupation.begin("prediction_loop()"), self._engine.average.shown(), evaluation.eval_mode():
            run.over(first(evaluation.counted(batches), limit), ignore_keys, **options)
            output = run.output(prefix)
        if trainer.is_world_process_zero():
            run.tell(prefix, self._told, is_prediction=keeps)
        return output, run

    def trial_metrics(self) -> dict[str, Any] | None:
        """Return the metrics of an evaluation of one batch, so that their names are known before training.

        Sends no events. Returns None if one batch does not tell the names: if it is not all of the data, which
        compute_metrics needs, if compute_metrics accumulates over batches, or if a subclass overrides the evaluation.
        """
        trainer = self._trainer
        if trainer.args.batch_eval_metrics or self._overrides.any("evaluate", "prediction_loop", "evaluation_loop"):
            return None
        metrics: dict[str, Any] = {}
        for prefix, dataset in self._parts(None, "eval").items():
            trial = partial(self._try_one_batch, dataset, prefix)
            try:
                found = self._engine.strategy.collectives.outcome("the trial evaluation", trial)[0]
            except NotPlainError:
                raise
            except Exception as error:
                logger.warning("the metrics cannot be checked before the first step: one batch gave %r", error)
                return None
            if found is None:
                return None
            metrics |= {**found, **speed_metrics(prefix, 1.0, 1, 1)}
        return metrics

    def _try_one_batch(self, dataset: Any, prefix: str) -> dict[str, Any] | None:
        """Return the metrics of one batch; None if compute_metrics would need the others too."""
        only_loss = self._trainer.compute_metrics is None or self._trainer.args.prediction_loss_only
        batches = self._engine.evaluation.evaluation_batches(dataset)
        output, run = self._run(batches, prefix, only_loss, max_batches=1)
        return output.metrics if only_loss or run.is_complete else None

    def tell_undefined(self, metrics: Mapping[str, Any]) -> None:
        """Warn, once for each metric, if it has no value in an evaluation."""
        for name in metrics:
            if is_undefined(metrics[name]) and name not in self._told and self._trainer.is_world_process_zero():
                self._told.add(name)
                logger.warning(
                    "%s is %s in the evaluation at step %d: such an evaluation is passed over, it is never the best",
                    *(name, metrics[name], self._trainer.state.global_step),
                )

    def watch_memory(self) -> MemoryWatch | None:
        """Return a memory watch if ``args.skip_memory_metrics`` is False."""
        if self._trainer.args.skip_memory_metrics:
            return None
        earlier, self._memory_of_init = self._memory_of_init, {}
        return MemoryWatch(self._engine.device_memory, earlier)

    @contextmanager
    def initializing(self) -> Iterator[None]:
        """Return a context whose use of memory is among the metrics that are returned first."""
        memory = self.watch_memory()
        try:
            yield
        finally:
            self._memory_of_init = memory.stop("init") if memory else {}
