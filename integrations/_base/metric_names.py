"""Names of metrics, the same in every tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GROUPS = ("eval", "test")


def rewrite_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a log record with the names that trackers show: ``eval/accuracy``, ``test/loss``, ``train/loss``.

    The step is left out, since trackers have it as the axis, and so is the epoch of an evaluation and of the summary
    at the end, which the training record of that step holds already.

    Example:
        >>> rewrite_logs({"loss": 0.5, "epoch": 1.0, "step": 10})
        {'train/loss': 0.5, 'train/epoch': 1.0}
        >>> rewrite_logs({"eval_accuracy": 0.9, "epoch": 1.0, "step": 10})
        {'eval/accuracy': 0.9}
    """
    is_training = not any(key.startswith(("eval_", "test_", "train_")) for key in logs)
    return {_rewritten(key): value for key, value in logs.items() if key != "step" and (is_training or key != "epoch")}


def _rewritten(key: str) -> str:
    group, _, rest = key.partition("_")
    return f"{group}/{rest}" if group in GROUPS and rest else f"train/{key}"


def as_number(value: Any) -> float | None:
    """Return a logged value as a float, whatever its type; None for what is no number."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError):
        return None
