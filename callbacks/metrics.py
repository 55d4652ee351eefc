"""Metrics: the name of a metric in log records, and whether a value improves on the best."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .types import Args

SPEEDS = ("_runtime", "_per_second", "_compilation_time", "_model_preparation_time")
"""Ends of the names in log records that are times and speeds, of this trainer and of others."""


@dataclass(frozen=True)
class WatchedMetric:
    """A metric by which a run is judged. Early stopping, the best model and a plateau schedule have it from here.

    Attributes:
        key: Its name in the records of an evaluation, whichever way it was written.
        greater_is_better: Whether a greater value is better.
    """

    key: str
    greater_is_better: bool

    @classmethod
    def of(cls, args: Args, name: str | None = None, greater_is_better: bool | None = None) -> WatchedMetric:
        """Return the metric called ``name``, or that of the arguments.

        The direction is the one given, or that of the arguments if it is their metric, or follows from the name.

        Example:
            >>> from types import SimpleNamespace
            >>> args = SimpleNamespace(metric_for_best_model="eval_wer", greater_is_better=False)
            >>> WatchedMetric.of(args, "wer")
            WatchedMetric(key='eval_wer', greater_is_better=False)
        """
        own = evaluation_key(args.metric_for_best_model or "loss")
        key = own if name is None else evaluation_key(name)
        if greater_is_better is None and key == own:
            greater_is_better = args.greater_is_better
        return cls(key, is_greater_better(key) if greater_is_better is None else bool(greater_is_better))

    def __str__(self) -> str:
        return f"{self.key} ({'greater' if self.greater_is_better else 'smaller'} is better)"


def evaluation_key(name: str) -> str:
    """Return the name of a metric in the records of an evaluation.

    Example:
        >>> evaluation_key("accuracy"), evaluation_key("eval_loss")
        ('eval_accuracy', 'eval_loss')
    """
    return name if name.startswith("eval_") else f"eval_{name}"


def training_key(name: str) -> str:
    """Return the name of a metric in training records; "loss" alone is that of the evaluation.

    Example:
        >>> training_key("train_loss"), training_key("loss"), training_key("perplexity")
        ('loss', 'eval_loss', 'perplexity')
    """
    return "eval_loss" if name == "loss" else name.removeprefix("train_")


SMALLER = frozenset(
    {"loss", "error", "err", "perplexity", "ppl", "nll", "entropy", "crossentropy", "brier", "fid", "kid", "distance"}
    | {"mse", "rmse", "mae", "msle", "rmsle", "smape", "wer", "cer", "ter", "mer", "der", "eer", "bpc", "bpb"}
)
"""Words in the names of metrics that are better when they are smaller."""


def is_greater_better(name: str) -> bool:
    """Return whether a metric is better when it is greater, where nothing but its name says so.

    Example:
        >>> [is_greater_better(name) for name in ("eval_accuracy", "eval_wer", "mean_squared_error", "neg_rmse")]
        [True, False, False, True]
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    is_smaller = name.endswith("loss") or not SMALLER.isdisjoint(words)
    return is_smaller if "neg" in words or "negative" in words else not is_smaller


def is_undefined(value: Any) -> bool:
    """Return whether a metric has no value in an evaluation: None, or not a number.

    Example:
        >>> is_undefined(None), is_undefined(float("nan")), is_undefined(0)
        (True, True, False)
    """
    return value is None or (isinstance(value, Real) and value != value)


def improves(value: float, best: float | None, *, greater_is_better: bool, threshold: float = 0.0) -> bool:
    """Return whether ``value`` is better than ``best`` by more than ``threshold``.

    Args:
        value: The new value; NaN never improves.
        best: The best value so far; None if there is none, on which everything else improves.
        greater_is_better: Whether a greater value is better.
        threshold: The largest gain that does not count.

    Example:
        >>> improves(0.8, 0.7, greater_is_better=True), improves(0.8, 0.7, greater_is_better=True, threshold=0.2)
        (True, False)
    """
    if math.isnan(value):
        return False
    return best is None or (value - best if greater_is_better else best - value) > threshold
