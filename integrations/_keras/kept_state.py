"""State of a Keras callback for checkpoints: the attributes that a run has changed, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from trackside.callbacks._util.exact_data import exact
from trackside.callbacks.errors import NotPlainError

NOT_OWN = frozenset({"params", "_model", "model"})
"""Attributes that ``set_model`` and ``set_params`` set."""


def kept_attributes(callback: Any) -> dict[str, Any]:
    """Return the attributes of a callback that can be kept, as JSON values: those that come back as they are."""
    kept: dict[str, Any] = {}
    for name, value in vars(callback).items():
        if name not in NOT_OWN:
            with suppress(NotPlainError):
                kept[name] = exact(value, name, tell=_refuse, limit=None)
    return kept


def _refuse(place: str, change: str) -> None:
    raise NotPlainError(place, "", change)


def changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items of ``now`` that are not those of ``before``."""
    return {name: value for name, value in now.items() if name not in before or before[name] != value}
