"""Results of train(), evaluate() and predict(), and the argument of compute_metrics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from trackside.callbacks.metrics import SPEEDS, is_undefined


class MapDataset(Protocol):
    """Examples by index, as in torch's map-style datasets, or datasets by name."""

    def __getitem__(self, index: Any, /) -> Any: ...


Dataset = MapDataset | Iterable[Any]
"""A source of examples for a trainer."""


class TrainOutput(NamedTuple):
    """The result of train().

    Attributes:
        global_step: Updates completed.
        training_loss: Mean loss over all updates.
        metrics: Run time, speed and related numbers.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class PredictionOutput(NamedTuple):
    """The result of predict().

    Attributes:
        predictions: Array, or nested arrays, of shape (rows, ...), usually with a row for each example; ragged ones are
            padded with -100. A list of one item for each example stays one. A list of batches with
            eval_do_concat_batches=False.
        label_ids: The labels in the same form; None without labels.
        metrics: The result of compute_metrics, the loss, and the speed.
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class EvalLoopOutput(NamedTuple):
    """The result of evaluation_loop().

    Attributes:
        predictions, label_ids, metrics: As in `PredictionOutput`.
        num_samples: Number of examples, over all processes.
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]
    num_samples: int | None


class BestRun(NamedTuple):
    """The best trial of a hyperparameter search.

    Attributes:
        run_id: The backend's id of the trial.
        objective: The objective value of the trial.
        hyperparameters: The hyperparameters of the trial, by name.
    """

    run_id: str
    objective: float
    hyperparameters: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        """The hyperparameters, under the attribute name of an optuna trial; ``model_init`` may get either."""
        return self.hyperparameters


@dataclass
class EvalPrediction:
    """The input of compute_metrics; unpacks as ``predictions, label_ids``, then ``inputs`` and ``losses``, if any.

    Attributes:
        predictions: Array or nested arrays of shape (examples, ...).
        label_ids: The labels in the same form.
        inputs: The inputs, if ``include_for_metrics`` names them.
        losses: The loss of each batch, if ``include_for_metrics`` names them.
    """

    predictions: Any
    label_ids: Any
    inputs: Any = None
    losses: Any = None

    def __iter__(self) -> Any:
        return iter(self._elements)

    def __getitem__(self, index: int) -> Any:
        return self._elements[index]

    @property
    def _elements(self) -> tuple[Any, ...]:
        return self.predictions, self.label_ids, *(x for x in (self.inputs, self.losses) if x is not None)


def default_compute_objective(metrics: dict[str, float]) -> float:
    """Return the default objective of a search: eval_loss if it is the only metric, else the sum of the others.

    Metrics that are None or NaN are left out.

    Example:
        >>> default_compute_objective({"eval_loss": 0.5, "eval_accuracy": 0.9, "eval_runtime": 3.0, "epoch": 1.0})
        0.9
    """
    known = {name: value for name, value in metrics.items() if not is_undefined(value)}
    rest = {name: value for name, value in known.items() if name != "epoch" and not name.endswith(SPEEDS)}
    loss = rest.pop("eval_loss", None)
    return sum(rest.values()) if rest else float("nan") if loss is None else loss


def speed_metrics(prefix: str, seconds: float, examples: int | None, steps: int) -> dict[str, float]:
    """Return run time and speed under names that begin with ``prefix``.

    Units:
        ``seconds``: wall-clock seconds; the rates are per second.

    Example:
        >>> speed_metrics("eval", 2.0, examples=100, steps=10)
        {'eval_runtime': 2.0, 'eval_samples_per_second': 50.0, 'eval_steps_per_second': 5.0}
    """
    seconds = max(seconds, 1e-9)
    metrics = {f"{prefix}_runtime": round(seconds, 4)}
    if examples is not None:
        metrics[f"{prefix}_samples_per_second"] = round(examples / seconds, 3)
    metrics[f"{prefix}_steps_per_second"] = round(steps / seconds, 3)
    return metrics


def prefixed(metrics: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return ``metrics`` with ``prefix`` and an underscore before every name that does not have them yet.

    Of two that become equal, the first is kept.

    Example:
        >>> prefixed({"accuracy": 0.9, "eval_f1": 0.8}, "eval")
        {'eval_accuracy': 0.9, 'eval_f1': 0.8}
    """
    made: dict[str, Any] = {}
    for name, value in metrics.items():
        made.setdefault(name if name.startswith(f"{prefix}_") else f"{prefix}_{name}", value)
    return made
