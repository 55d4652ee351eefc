"""Early stopping: end training when a metric no longer improves."""

from __future__ import annotations

import logging
from typing import Any

from ..callback import TrainerCallback
from ..errors import ArgumentError, UnknownMetricError, check_count
from ..metrics import WatchedMetric, evaluation_key, improves, is_undefined, training_key
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role

logger: logging.Logger = logging.getLogger("trackside.callbacks")


class EarlyStoppingCallback(TrainerCallback):
    """Stop training when a metric has not improved for some evaluations in a row.

    It judges the values that the best model is judged by: those of the evaluations that the run schedules, and not of
    others that a callback asks for with ``trainer.evaluate()``. A metric that these evaluations do not return is looked
    for in all log records. Neither ``load_best_model_at_end`` nor a checkpoint is needed. An evaluation in which the
    metric is None or NaN is passed over, as by the best model and a search: it neither counts nor begins anew.

    The count belongs to metric and direction: a resumed run that goes by another metric counts anew, and says so.

    Args:
        early_stopping_patience: The number of evaluations without improvement after which training stops.
        early_stopping_threshold: The largest gain that does not count as an improvement.
        metric: The metric to watch. "accuracy" and "eval_accuracy" are the same metric of an evaluation; "train_loss"
            is the ``loss`` of the training records; any other name may also be one that you log yourself. None:
            ``args.metric_for_best_model``, or the evaluation's loss.
        greater_is_better: None: ``args.greater_is_better`` if the metric is that of the arguments; else whether the
            name says no loss or error (see `trackside.callbacks.metrics.is_greater_better`).

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
        self._watched: WatchedMetric | None = None
        self._is_training = False
        self._goes_by_records = False
        self._judged: str | None = None
        self._has_judged = False
        self._records_judged: int | None = None
        self._records_before = 0
        self._without_metric: list[Record] = []

    def accepts_state(self, args: Args, state: Record) -> bool:
        """Return whether a state is of the same metric and direction."""
        own = _identity(self._metric(args))
        return all(state.get(name, value) == value for name, value in own.items())

    def state_dict(self) -> dict[str, Any]:
        counts = {"best": self.best, "early_stopping_patience_counter": self.early_stopping_patience_counter}
        if self._watched is None:
            return counts
        return {**counts, **_identity(self._watched), "records_judged": self._records_judged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = None if state["best"] is None else float(state["best"])
        self.early_stopping_patience_counter = int(state["early_stopping_patience_counter"])
        self._records_judged = state.get("records_judged")
        self._watched = WatchedMetric(state["metric"], state["greater_is_better"]) if "metric" in state else None

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metric, before = self._metric(args), self._watched
        if state.global_step == 0 or before not in (None, metric):
            self.load_state_dict({"best": None, "early_stopping_patience_counter": 0})
        self._is_training, self._watched, self._judged, self._without_metric = True, metric, None, []
        self._has_judged = self.best is not None and self._records_judged is None
        self._records_before = len(state.log_history)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:  # resumed
            control.stop(f"early stopping had ended the run before step {state.global_step}; a larger patience goes on")
        name, is_evaluated = self._name(args), args.eval_strategy != "no"
        self._goes_by_records = not is_evaluated or name.startswith("train_")
        if not is_evaluated and name.startswith("eval_"):
            logger.warning("early stopping watches %r, but eval_strategy='no': nothing is evaluated", name)

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        if self._is_training and self._goes_by_records:
            self._judge_records(args, state, control)

    def on_evaluate(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics: Record = kwargs["metrics"]
        is_judged = self._is_training and kwargs.get("scheduled", True) and not self._goes_by_records
        if not is_judged or not _is_evaluation(metrics):
            return
        key = self._metric(args).key
        if metrics.get(key) is not None:
            self._judged = key
            self._judge(float(metrics[key]), key, args, state, control)
        elif key in metrics or key == self._judged or (self._has_judged and self._judged is None):
            logger.debug("early stopping passes over step %d, whose evaluation gave no %s", state.global_step, key)
        elif any(_value_in(record, self._name(args)) for record in state.log_history):
            self._goes_by_records = True
            self._judge_records(args, state, control)
        else:
            self._note_missing(metrics, kwargs.get("trainer"), args)

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._is_training = False

    def _name(self, args: Args) -> str:
        return self.metric or args.metric_for_best_model or "eval_loss"

    def _metric(self, args: Args) -> WatchedMetric:
        return WatchedMetric.of(args, self.metric, self.greater_is_better)

    def _judge_records(self, args: Args, state: TrainerState, control: TrainerControl) -> None:
        """Judge the records that came since those judged last."""
        first = self._records_before if self._records_judged is None else self._records_judged
        self._records_judged = len(state.log_history)
        for record in state.log_history[first:]:
            for key, value in _value_in(record, self._name(args)).items():
                self._judge(value, key, args, state, control)

    def _judge(self, value: float, key: str, args: Args, state: TrainerState, control: TrainerControl) -> None:
        self._without_metric = []
        if is_undefined(value):
            logger.debug("early stopping passes over step %d, where %s is NaN", state.global_step, key)
            return
        greater = self._metric(args).greater_is_better
        if improves(value, self.best, greater_is_better=greater, threshold=self.early_stopping_threshold):
            self.best, self.early_stopping_patience_counter = value, 0
            return
        self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            times = f"{self.early_stopping_patience_counter} times in a row"
            control.stop(f"{key} has not improved on {self.best:.6g}, {times}, up to step {state.global_step}")

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


def _identity(metric: WatchedMetric) -> dict[str, Any]:
    return {"metric": metric.key, "greater_is_better": metric.greater_is_better}


def _value_in(record: Record, name: str) -> dict[str, float]:
    """Return the value of a metric in a log record by the name that it has there; empty if there is none."""
    names = (training_key(name), evaluation_key(name))
    return next(({key: float(record[key])} for key in names if record.get(key) is not None), {})
