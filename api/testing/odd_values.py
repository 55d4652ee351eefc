"""Odd values: what a record or the metrics of an evaluation may hold, beside finite numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

PREFIX = "odd_"


def odd_values() -> dict[str, Any]:
    """Return values by name: not finite, not numbers, of numpy, nested, very large, very long."""
    import numpy as np

    values = {
        "nan": math.nan,
        "inf": math.inf,
        "minus_inf": -math.inf,
        "none": None,
        "true": True,
        "numpy_float": np.float32(0.5),
        "numpy_int": np.int64(7),
        "numpy_nan": np.float64("nan"),
        "array": np.arange(3.0),
        "tiny": 5e-324,
        "large": 3e300,
        "whole": 10**400,
        "text": "a text",
        "number_text": "3",
        "long_text": "x" * 100_000,
        "lines": 'two\nlines, a "quote"; a tab\t, Ünïcödé 🚂, and \udcff of a file\'s name',
        "list": [1, "a", None],
        "nested": {"a": {"b": [1.0, math.nan]}},
        "empty": {},
        "name/of @many: kinds é": 0.25,
        "long_name_" + "n" * 300: 0.25,
    }
    return {f"{PREFIX}{name}": value for name, value in values.items()}


def is_odd(name: str) -> bool:
    """Return whether a name, as a record has it or as a tracker shows it, is that of an odd value."""
    return PREFIX in name


def odd_part(values: Any) -> dict[str, Any]:
    """Return the odd values of a record."""
    return {name: value for name, value in values.items() if is_odd(name)} if isinstance(values, Mapping) else {}
