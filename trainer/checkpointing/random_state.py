"""The random number generators of Python and numpy, as plain data."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

logger: logging.Logger = logging.getLogger("trackside.trainer")

LONGEST_WAIT_S = 30.0
"""The longest wait for another thread: its dataset may itself wait for what this thread is to do next."""

_lent = threading.RLock()


@contextmanager
def generators_lent() -> Iterator[None]:
    """Return a context in which a thread may give the generators of the process another state, and then put it back.

    Threads that train, or read data, take turns: what one puts back is never what another has put in place.
    """
    lock = _lent
    is_held = lock.acquire(timeout=LONGEST_WAIT_S)
    if not is_held:
        logger.warning(
            "another thread has read one example for %g s; random numbers of Python and numpy no longer follow from "
            "the seed alone",
            LONGEST_WAIT_S,
        )
    try:
        yield
    finally:
        if is_held:
            lock.release()


def _renew_lock() -> None:
    """Replace the lock in a child process: a thread that held it was not copied by the fork."""
    global _lent
    _lent = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


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
