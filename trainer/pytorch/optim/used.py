"""Hyperparameters with which an update was done, before a schedule or a callback changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

KEPT = ("name", "lr", "momentum", "betas")
"""The entries of a parameter group that log records show."""


Groups = list[dict[str, Any]]


def kept_groups(optimizer: Any) -> Groups:
    """Return the parameter groups of an optimizer as they are now; called in every update, and so without a choice."""
    return [group.copy() if type(group.get("lr")) is not Tensor else _kept(group) for group in optimizer.param_groups]


def _kept(group: dict[str, Any]) -> dict[str, Any]:
    return {**group, "lr": group["lr"].detach().clone()}  # which a schedule changes in place


def shown_groups(groups: Groups, optimizer: Any) -> Groups:
    """Return what log records show of groups that `kept_groups` returned.

    Each group has the name of its optimizer, which is empty if there is only one.
    """
    parts = getattr(optimizer, "parts", {"": optimizer})
    names = [name for name, part in parts.items() for _ in part.param_groups]
    return [
        {"optimizer": name, **{key: group[key] for key in KEPT if key in group}}
        for name, group in zip(names, groups, strict=False)
    ]


def learning_rates(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the learning rate of the first group, and of the first of each optimizer if there are several.

    Example:
        >>> learning_rates([{"optimizer": "", "lr": 0.1}, {"optimizer": "", "lr": 0.2}])
        {'learning_rate': 0.1}
    """
    rates: dict[str, float] = {}
    for group in groups:
        if "lr" in group:
            for name in ("", f"_{group['optimizer']}") if group["optimizer"] else ("",):
                rates.setdefault(f"learning_rate{name}", float(group["lr"]))
    return rates
