"""Compatibility with Keras on several replicas: private names, each with a fallback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._compat import global_seed_generator


def with_global_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function``, which draws from the global generator of Keras of this thread on any other thread.

    Keras keeps one for each thread, and tf.distribute traces each replica in a thread of its own, in which a generator
    cannot be made.
    """
    from keras.src.backend.common import global_state

    generator = global_seed_generator()

    def call(*args: Any) -> Any:
        global_state.set_global_attribute("global_seed_generator", generator)
        return function(*args)

    return call
