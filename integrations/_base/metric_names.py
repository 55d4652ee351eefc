"""Metric names and values as trackers and displays show them."""

from __future__ import annotations

from typing import Any

from trackside.callbacks.types import Record

GROUPS = ("eval", "test")


def rewrite_logs(logs: Record) -> dict[str, Any]:
    """Return a log record under the names that trackers show: ``eval/accuracy``, ``test/loss``, ``train/loss``.

    The step is left out, because trackers use it as the axis. The epoch of an evaluation and of the summary at the end
    is left out, because the training record of that step holds it already.

    Example:
        >>> rewrite_logs({"loss": 0.5, "epoch": 1.0, "step": 10})
        {'train/loss': 0.5, 'train/epoch': 1.0}
        >>> rewrite_logs({"eval_accuracy": 0.9, "epoch": 1.0, "step": 10})
        {'eval/accuracy': 0.9}
    """
    is_training = not any(key.startswith(("eval_", "test_", "train_")) for key in logs)
    return {_rewritten(key): value for key, value in logs.items() if key != "step" and (is_training or key != "epoch")}


def numbers_in(values: Record) -> dict[str, float]:
    """Return the values that are numbers, as floats.

    Example:
        >>> numbers_in({"loss": 1, "note": "text"})
        {'loss': 1.0}
    """
    numbers = {name: as_number(value) for name, value in values.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def as_number(value: Any) -> float | None:
    """Return a logged value as a float, or None if it is not a number."""
    if isinstance(value, str | bytes):
        return None
    try:
        return float(value)
    except Exception:  # whatever class the value has: such as a tensor without data
        return None


def _rewritten(key: str) -> str:
    if not key.isascii():  # what UTF-8 cannot hold, such as a part of a file's name, would cost the whole record
        key = key.encode("utf-8", "backslashreplace").decode("utf-8")
    group, _, rest = key.partition("_")
    return f"{group}/{rest}" if group in GROUPS and rest else f"train/{key}"
