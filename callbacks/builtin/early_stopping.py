"""Early stopping: end training when a metric no longer improves."""

from __future__ import annotations

import logging
from typing import Any

from ..callback import TrainerCallback
from ..errors import ArgumentError, UnknownMetricError, check_count
from ..metrics import evaluation_key, improves, is_greater_better, training_key
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role

logger: logging.Logger = logging.getLogger("trackside.callbacks")


class EarlyStoppingCallback(TrainerCallback):
    """Stop training when a metric has not improved for some evaluations in a row.

    Works with any logged metric; neither ``load_best_model_at_end`` nor a checkpoint is needed. An evaluation in which
    the metric is None is passed over; one in which it is NaN has not improved.

    Args:
        early_stopping_patience: The number of evaluations without improvement after which training stops.
        early_stopping_threshold: The largest gain that does not count as an improvement.
        metric: The metric to watch. "accuracy" and "eval_accuracy" are the same metric of an evaluation; "train_loss"
            is the ``loss`` of the training records; any other name may also be one that you log yourself. None:
            ``args.metric_for_best_model``, or the evaluation's loss.
        greater_is_better: None: ``args.greater_is_better`` if the metric comes from the arguments too; else whether the
            name does not end in "loss".

    Raises:
        ArgumentError: If an option holds a value that is not allowed.
        UnknownMetricError: In the first evaluation, if it does not return the metric.
    """

    role: Role = "control"

    def __init__(
        self,
        early_stopping_patience: int = 1,
        early_stopping_threshold: float = 0.0,
        *,
        metric: str | None = None,
        greater_is_better: bool | None = None,
    ) -> None:
        check_count("early_stopping_patience", early_stopping_patience)
        if not isinstance(early_stopping_threshold, int | float) or not early_stopping_threshold >= 0:
            raise ArgumentError("early_stopping_threshold", early_stopping_threshold, "a number from 0")
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold
        self.metric = metric
        self.greater_is_better = greater_is_better
        self.early_stopping_patience_counter: int = 0
        self.best: float | None = None
        self._is_training = False
        self._judged: str | None = None
        self._without_metric: list[Record] = []

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "early_stopping_patience_counter": self.early_stopping_patience_counter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = None if state["best"] is None else float(state["best"])
        self.early_stopping_patience_counter = int(state["early_stopping_patience_counter"])

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._is_training = True
        self._without_metric = []
        if state.global_step == 0:
            self.load_state_dict({"best": None, "early_stopping_patience_counter": 0})
        if self.early_stopping_patience_counter >= self.early_stopping_patience:  # resumed
            control.stop(f"early stopping had ended the run before step {state.global_step}; a larger patience goes on")
        name = self._name(args)
        if args.eval_strategy == "no" and name.startswith("eval_"):
            logger.warning("early stopping watches %r, but eval_strategy='no': nothing is evaluated", name)

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        key = training_key(self._name(args))
        if self._is_training and logs.get(key) is not None and not _is_evaluation(logs):
            self._judge(float(logs[key]), key, args, state, control)

    def on_evaluate(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics: Record = kwargs["metrics"]
        if not self._is_training or not _is_evaluation(metrics):
            return  # an evaluation of something else, or outside of training
        name = self._name(args)
        key = evaluation_key(name)
        if metrics.get(key) is not None:
            self._judge(float(metrics[key]), key, args, state, control)
        elif key in metrics or key == self._judged:
            logger.debug("early stopping passes over step %d, whose evaluation gave no %s", state.global_step, key)
        elif not any(training_key(name) in record for record in state.log_history):
            self._note_missing(metrics, kwargs.get("trainer"), args)

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._is_training = False

    def _name(self, args: Args) -> str:
        return self.metric or args.metric_for_best_model or "eval_loss"

    def _judge(self, value: float, key: str, args: Args, state: TrainerState, control: TrainerControl) -> None:
        self._without_metric, self._judged = [], key
        greater = self._wants_greater(args)
        if improves(value, self.best, greater_is_better=greater, threshold=self.early_stopping_threshold):
            self.best, self.early_stopping_patience_counter = value, 0
            return
        self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            best = "NaN" if self.best is None else f"{self.best:.6g}"
            times = f"{self.early_stopping_patience_counter} times in a row"
            control.stop(f"{key} has not improved on {best}, {times}, up to step {state.global_step}")

    def _wants_greater(self, args: Args) -> bool:
        if self.greater_is_better is not None:
            return self.greater_is_better
        name = self._name(args)
        if args.greater_is_better is not None and name == (args.metric_for_best_model or "eval_loss"):
            return args.greater_is_better
        return is_greater_better(name)

    def _note_missing(self, metrics: Record, trainer: Any, args: Args) -> None:
        """Note an evaluation without the metric; with several evaluation sets, another one may have it."""
        self._without_metric.append(metrics)
        sets = getattr(trainer, "eval_dataset", None)
        if len(self._without_metric) >= (len(sets) if isinstance(sets, dict) else 1):
            option = "metric" if self.metric else "metric_for_best_model"
            known = {key for seen in self._without_metric for key in seen if key not in ("epoch", "step")}
            raise UnknownMetricError(option, self._name(args), known)


def _is_evaluation(record: Record) -> bool:
    return any(key.startswith("eval_") for key in record)
