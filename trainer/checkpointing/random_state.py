"""The random number generators of Python and numpy, as plain data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np


def host_random_state() -> dict[str, Any]:
    """Return the states of the random number generators of Python and numpy."""
    name, keys, *rest = np.random.get_state()
    return {"python": random.getstate(), "numpy": [str(name), np.asarray(keys).tolist(), *rest]}


def set_host_random_state(state: dict[str, Any]) -> None:
    """Restore the states that `host_random_state` returned, possibly read from a file."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
