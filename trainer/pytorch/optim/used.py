"""Hyperparameters with which an update was done, before a schedule or a callback changes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

KEPT = ("name", "lr", "momentum", "betas")
"""The entries of a parameter group that log records show."""


def used_groups(optimizer: Any) -> list[dict[str, Any]]:
    """Return what log records show of the parameter groups of an optimizer, as they are now.

    Each group has the name of its optimizer, which is empty if there is only one.
    """
    parts = getattr(optimizer, "parts", {"": optimizer})
    return [{"optimizer": name, **_values(group)} for name, part in parts.items() for group in part.param_groups]


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


def _values(group: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: group[name] for name in KEPT if name in group}
    if isinstance(values.get("lr"), Tensor):  # which a schedule changes in place
        values["lr"] = values["lr"].detach().clone()
    return values
