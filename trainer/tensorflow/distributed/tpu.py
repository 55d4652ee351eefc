"""TPU connection: ``args.tpu_name`` is resolved, connected and initialized within a time limit."""

from __future__ import annotations

import queue
import threading
from typing import Any

from trackside.callbacks.errors import ArgumentError

WAIT_S = 300.0
"""Time limit for the connection in seconds; TensorFlow has none."""


def tpu_strategy(name: str, wait_s: float = WAIT_S) -> Any:
    """Return a tf.distribute.TPUStrategy on the TPU ``name``.

    Raises:
        ArgumentError: If the TPU is not found, or does not answer within ``wait_s`` seconds.
    """
    answer: queue.Queue[Any] = queue.Queue()

    def connect() -> None:
        try:
            answer.put(_connected(name))
        except Exception as error:
            answer.put(error)

    threading.Thread(target=connect, daemon=True, name="trackside-tpu").start()
    try:
        found = answer.get(timeout=wait_s)
    except queue.Empty:
        raise _not_there(name, f"nothing answered within {wait_s:g} seconds") from None
    if isinstance(found, Exception):
        reason = next(iter(str(found).strip().splitlines()), "")[:200]
        raise _not_there(name, f"{type(found).__name__}: {reason}") from None
    return found


def _connected(name: str) -> Any:
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    return tf.distribute.TPUStrategy(resolver)


def _not_there(name: str, why: str) -> ArgumentError:
    allowed = "the name or grpc:// address of a TPU that this machine reaches, or 'local' on the TPU's own machine"
    return ArgumentError("tpu_name", name, f"{allowed} ({why})")
