"""State of a Keras callback for checkpoints: the attributes that a run has changed, as JSON values."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

NOT_OWN = frozenset({"params", "_model", "model"})
"""Attributes that ``set_model`` and ``set_params`` set."""

SCALARS = (type(None), bool, int, float, str)

TAG = "trackside"
"""The key of a dict that stands for a value that JSON does not know."""


class NotKeptError(Exception):
    """A value that a checkpoint does not keep."""


def kept_attributes(callback: Any) -> dict[str, Any]:
    """Return the attributes of a callback that can be kept, as JSON values: numbers, text, arrays, and collections."""
    kept = {}
    for name, value in vars(callback).items():
        if name not in NOT_OWN:
            try:
                kept[name] = encoded(value)
            except NotKeptError:
                continue
    return kept


def changed(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items of ``now`` that are not those of ``before``."""
    return {name: value for name, value in now.items() if name not in before or before[name] != value}


def encoded(value: Any) -> Any:
    """Return a value as JSON values; `decoded` returns the same.

    Raises:
        NotKeptError: If it is, or holds, something else than numbers, text, arrays and collections.

    Example:
        >>> decoded(encoded({"best": (1, float("inf")), 3: {"a"}}))
        {'best': (1, inf), 3: {'a'}}
    """
    if type(value) in SCALARS:
        return value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        data = base64.b64encode(array.tobytes()).decode()
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {TAG: kind, "dtype": array.dtype.str, "shape": list(array.shape), "data": data}
    if type(value) is list:
        return [encoded(item) for item in value]
    if type(value) in (tuple, set):
        return {TAG: type(value).__name__, "items": [encoded(item) for item in value]}
    if isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
        if type(value) is dict and TAG not in value and all(type(key) is str for key in value):
            return {key: encoded(item) for key, item in value.items()}
        return {TAG: "dict", "items": [[encoded(key), encoded(item)] for key, item in value.items()]}
    raise NotKeptError(type(value).__name__)


def decoded(value: Any) -> Any:
    """Return the value that `encoded` was given."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(TAG)
    if kind in ("array", "scalar"):
        data = base64.b64decode(value["data"])
        array = np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"]).copy()
        return array if kind == "array" else array[()]
    if kind in ("tuple", "set"):
        return (tuple if kind == "tuple" else set)(decoded(item) for item in value["items"])
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in value["items"]}
    return {key: decoded(item) for key, item in value.items()}
