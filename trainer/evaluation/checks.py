"""Checks of what an evaluation is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.errors import ArgumentError, TracksideTypeError


def dataset_to_evaluate(given: Any, own: Any) -> Any:
    """Return the given dataset, that of the trainer's datasets with the given name, or else the trainer's dataset.

    Raises:
        ArgumentError: If it does not exist.
    """
    dataset = own if given is None else given
    if dataset is None:
        raise ArgumentError("eval_dataset", None, "evaluate() needs an evaluation dataset")
    named = own if isinstance(own, dict) else {}
    if isinstance(given, str) and given not in named:
        raise ArgumentError("eval_dataset", given, f"a dataset, or a name in the trainer's eval_dataset: {list(named)}")
    return named[given] if isinstance(given, str) else dataset


def metrics_in(result: Any, trainer: Any) -> dict[str, Any]:
    """Return what a trainer's evaluate() returned, as plain values.

    Raises:
        TracksideTypeError: If it is not a dict.
    """
    if isinstance(result, Mapping):
        return dict(plain(result, "evaluate()"))
    name, found = type(trainer).__name__, type(result).__name__
    raise TracksideTypeError(f"{name}.evaluate() returned {found}; it returns the metrics, a dict")


def check_compute_metrics(compute_metrics: Callable[..., Any] | None, *, by_batch: bool) -> None:
    """Raise ArgumentError if ``compute_metrics`` cannot be called batch by batch as requested."""
    if compute_metrics is None or not by_batch:
        return
    parameters = inspect.signature(compute_metrics).parameters.values()
    if not any(item.name == "compute_result" or item.kind is item.VAR_KEYWORD for item in parameters):
        allowed = (
            "only with compute_metrics(prediction, compute_result), which returns metrics if compute_result is True"
        )
        raise ArgumentError("batch_eval_metrics", True, allowed)
