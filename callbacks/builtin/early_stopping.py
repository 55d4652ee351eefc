"""Stop when a metric no longer improves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from ..callback import TrainerCallback
from ..errors import ArgumentError, UnknownMetricError
from ..state import TrainerControl, TrainerState

logger = logging.getLogger("trackside.callbacks")


class EarlyStoppingCallback(TrainerCallback):
    """Stop training when a metric has not improved for some evaluations in a row.

    Works with any logged metric; neither ``load_best_model_at_end`` nor a checkpoint is needed.

    Args:
        early_stopping_patience: So many evaluations without improvement, and training stops.
        early_stopping_threshold: What is better by no more than this does not count as improvement.
        metric: What to watch. "accuracy" and "eval_accuracy" are the same metric of an evaluation; "train_loss" is the
            ``loss`` of the training records; any other name may also be one that you log yourself. None:
            ``args.metric_for_best_model``, or the evaluation's loss.
        greater_is_better: None: ``args.greater_is_better`` if the metric comes from the arguments too; else whether the
            name does not end in "loss".

    Raises:
        ArgumentError: If an option holds a value that is not allowed.
        UnknownMetricError: In the first evaluation, if it does not return the metric.
    """

    role = "control"

    def __init__(
        self,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float = 0.0,
        *,
        metric: str | None = None,
        greater_is_better: bool | None = None,
    ) -> None:
        is_count = isinstance(early_stopping_patience, int) and not isinstance(early_stopping_patience, bool)
        if not is_count or early_stopping_patience < 1:
            raise ArgumentError("early_stopping_patience", early_stopping_patience, "a whole number from 1")
        if not isinstance(early_stopping_threshold, int | float) or not early_stopping_threshold >= 0:
            raise ArgumentError("early_stopping_threshold", early_stopping_threshold, "a number from 0")
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold
        self.metric = metric
        self.greater_is_better = greater_is_better
        self.early_stopping_patience_counter = 0
        self.best: float | None = None
        self._is_training = False
        self._missed: list[Mapping[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "early_stopping_patience_counter": self.early_stopping_patience_counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
        self.early_stopping_patience_counter = state["early_stopping_patience_counter"]

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._is_training = True
        self._missed = []
        if state.global_step == 0:
            self.load_state_dict({"best": None, "early_stopping_patience_counter": 0})
        name = self._name(args)
        if args.eval_strategy == "no" and name.startswith("eval_"):
            logger.warning("early stopping watches %r, but eval_strategy='no': nothing is evaluated", name)

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        key = training_key(self._name(args))
        if self._is_training and logs and key in logs and not _is_evaluation(logs):
            self._judge(float(logs[key]), key, args, state, control)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not self._is_training or not metrics or not _is_evaluation(metrics):
            return  # an evaluation of something else, or on its own
        name = self._name(args)
        key = evaluation_key(name)
        if key in metrics:
            self._judge(float(metrics[key]), key, args, state, control)
        elif not any(training_key(name) in record for record in state.log_history):
            self._miss(metrics, kwargs.get("trainer"), args)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._is_training = False

    def _name(self, args: Any) -> str:
        return self.metric or args.metric_for_best_model or "eval_loss"

    def _judge(self, value: float, key: str, args: Any, state: TrainerState, control: TrainerControl) -> None:
        self._missed = []
        if self._is_better(value, args):
            self.best, self.early_stopping_patience_counter = value, 0
            return
        self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            best = "NaN" if self.best is None else f"{self.best:.6g}"
            times = f"{self.early_stopping_patience_counter} times in a row"
            control.stop(f"{key} has not improved on {best}, {times}, up to step {state.global_step}")

    def _is_better(self, value: float, args: Any) -> bool:
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self._wants_greater(args) else self.best - value
        return gain > self.early_stopping_threshold

    def _wants_greater(self, args: Any) -> bool:
        if self.greater_is_better is not None:
            return self.greater_is_better
        name = self._name(args)
        from_args: bool | None = args.greater_is_better
        if from_args is not None and name == (args.metric_for_best_model or "eval_loss"):
            return from_args
        return not name.endswith("loss")

    def _miss(self, metrics: Mapping[str, Any], trainer: Any, args: Any) -> None:
        """Note an evaluation without the metric; with several evaluation sets one of the others may have it."""
        self._missed.append(metrics)
        sets = getattr(trainer, "eval_dataset", None)
        if len(self._missed) >= (len(sets) if isinstance(sets, dict) else 1):
            option = "metric" if self.metric else "metric_for_best_model"
            known = {key for seen in self._missed for key in seen if key not in ("epoch", "step")}
            raise UnknownMetricError(option, self._name(args), known)


def evaluation_key(name: str) -> str:
    """Return the name of a metric in the records of an evaluation."""
    return name if name.startswith("eval_") else f"eval_{name}"


def training_key(name: str) -> str:
    """Return the name of a metric in the training records; a plain "loss" is the evaluation's, "train_loss" is not."""
    return "eval_loss" if name == "loss" else name.removeprefix("train_")


def _is_evaluation(record: Mapping[str, Any]) -> bool:
    return any(key.startswith("eval_") for key in record)
