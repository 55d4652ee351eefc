"""Learning rate monitor: the learning rates of all parameter groups in the log records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerState
from ..types import Args, Role


class LearningRateMonitorCallback(TrainerCallback):
    """Add the learning rate of every parameter group to the training records, as it was in the update before.

    A single group is logged as ``learning_rate``; several as ``learning_rate_0``, ``learning_rate_1`` and so on, or by
    their ``name`` where a group has one. Groups of one name are numbered: ``learning_rate_head_0``.

    Args:
        momentum: Log the momentum (of Adam: its first beta) likewise.
    """

    role: Role = "observer"

    def __init__(self, *, momentum: bool = False) -> None:
        self.momentum = momentum

    def metrics_to_log(self, args: Args, state: TrainerState, **context: Any) -> dict[str, float]:
        """Return the learning rates of the last update, for an optimizer of either framework."""
        groups = context.get("used_groups")
        groups = groups_of(context.get("optimizer")) if groups is None else groups
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
    names = [key] if len(groups) == 1 else [f"{key}_{name}" for name in labels_of(groups)]
    values = zip(names, map(value_of, groups), strict=True)
    return {name: float(value) for name, value in values if value is not None}


def labels_of(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a label for each group, each different: its name or number; groups of one name are numbered.

    Example:
        >>> labels_of([{"name": "head"}, {}, {"name": "head"}])
        ['head_0', '1', 'head_1']
    """
    names = [str(group.get("name", index)) for index, group in enumerate(groups)]
    taken = {name for name, times in Counter(names).items() if times == 1}
    labels = []
    for name in names:
        free = (label for number in count() if (label := f"{name}_{number}") not in taken)
        labels.append(name if name in taken and name not in labels else next(free))
        taken.add(labels[-1])
    return labels


def _momentum(group: dict[str, Any]) -> Any:
    return group["betas"][0] if "betas" in group else group.get("momentum")
