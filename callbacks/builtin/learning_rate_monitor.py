"""Learning rate monitor: the learning rates of all parameter groups in the log records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerState
from ..types import Args, Role


class LearningRateMonitorCallback(TrainerCallback):
    """Add the learning rate of every parameter group to the training records.

    A single group is logged as ``learning_rate``; several as ``learning_rate_0``, ``learning_rate_1`` and so on, or by
    their ``name`` where a group has one.

    Args:
        momentum: Log the momentum (of Adam: its first beta) likewise.
    """

    role: Role = "observer"

    def __init__(self, *, momentum: bool = False) -> None:
        self.momentum = momentum

    def metrics_to_log(self, args: Args, state: TrainerState, **context: Any) -> dict[str, float]:
        """Return the current learning rates, for an optimizer of either framework."""
        groups = groups_of(context.get("optimizer"))
        metrics = _by_group("learning_rate", groups, lambda group: group.get("lr"))
        if self.momentum:
            metrics.update(_by_group("momentum", groups, _momentum))
        return metrics


def groups_of(optimizer: Any) -> list[dict[str, Any]]:
    """Return the parameter groups of an optimizer; a Keras optimizer is a single group."""
    if optimizer is None:
        return []
    groups = getattr(optimizer, "param_groups", None)
    if groups is not None:
        return list(groups)
    rate = getattr(optimizer.learning_rate, "value", optimizer.learning_rate)
    rate = rate.read_value() if hasattr(rate, "read_value") else rate  # a variable may be on several devices
    return [{"lr": rate, "momentum": getattr(optimizer, "momentum", None)}]


def _by_group(key: str, groups: list[dict[str, Any]], value_of: Callable[[dict[str, Any]], Any]) -> dict[str, float]:
    single = len(groups) == 1
    metrics = {}
    for index, group in enumerate(groups):
        value = value_of(group)
        if value is not None:
            metrics[key if single else f"{key}_{group.get('name', index)}"] = float(value)
    return metrics


def _momentum(group: dict[str, Any]) -> Any:
    return group["betas"][0] if "betas" in group else group.get("momentum")
