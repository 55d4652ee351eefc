"""Batch-size finder: the largest micro-batch with which an update fits into memory."""

from __future__ import annotations

import gc
import logging
from typing import Any

from trackside.callbacks.errors import ArgumentError, TracksideValueError

from ..engine import Engine
from .probe import probe_of

logger: logging.Logger = logging.getLogger("trackside.trainer")

UPDATES = 2
"""Updates of a trial: the first one makes the optimizer's state."""


def find_batch_size(trainer: Any, engine: Engine, max_size: int) -> int:
    """Return the largest size that fits: ``per_device_train_batch_size`` times a power of two, or a part of it.

    Args:
        engine: The engine of ``trainer``.
        max_size: The largest size to try.
    """
    if max_size < 1:
        raise ArgumentError("max_size", max_size, "at least 1")
    first = size = min(trainer.args.per_device_train_batch_size, max_size)
    while (examples := examples_if_fits(trainer, engine, size)) is None:
        size //= 2
        if not size:
            raise TracksideValueError("not even an update with one example fits into memory")
    most = min(max_size, examples or max_size) if size == first else size
    while size < most and examples_if_fits(trainer, engine, min(2 * size, most)) is not None:
        size = min(2 * size, most)
    return int(size)


def examples_if_fits(trainer: Any, engine: Engine, size: int) -> int | None:
    """Return the number of training examples, 0 if unknown, if updates with micro-batches of ``size`` fit into memory.

    Returns:
        None if they do not.
    """
    found: int | None = None
    changes = {"max_steps": UPDATES, "per_device_train_batch_size": size}
    with probe_of(trainer, engine, "find_batch_size()", **changes) as (probe, own):
        try:
            probe.train()
            found = own.describe_data().examples or 0
        except Exception as error:
            if not engine.sandbox.is_out_of_memory(error):
                raise
    gc.collect()
    engine.sandbox.free_memory()
    logger.warning("find_batch_size(): %d examples %s", size, "do not fit" if found is None else "fit")
    return found
