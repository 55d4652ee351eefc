"""Out of memory in a micro-batch: halve it until it fits, with the same effective batch."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import TYPE_CHECKING

import tensorflow as tf

from .data import Pair, examples_in

if TYPE_CHECKING:
    from .data import TrainBatch
    from .engine import TFBackend

logger = logging.getLogger("trackside.trainer")


def retry_smaller(trainer: TFBackend, batch: TrainBatch, is_first: bool) -> None:
    """Take a micro-batch forward and backward in as many parts as memory asks for.

    The number of parts is kept for the batches that follow.
    """
    done = 0.0
    while True:
        try:
            for start, stop in _spans(examples_in(batch.inputs), trainer._splits):
                if start >= done:
                    part = _rows(batch.inputs, start, stop)
                    trainer.step.accumulate(part, trainer._rows_of(part), is_first and start == 0)
                    done = stop
            return
        except tf.errors.ResourceExhaustedError as error:
            if trainer._splits >= examples_in(batch.inputs):
                raise
            message = str(error).splitlines()[0]
        trainer._splits *= 2
        logger.warning("out of memory (%s); the micro-batch now goes in %d parts", message, trainer._splits)


def _spans(size: int, parts: int) -> list[tuple[int, int]]:
    edges = [round(part * size / parts) for part in range(parts + 1)]
    return [(start, stop) for start, stop in pairwise(edges) if stop > start]


def _rows(pair: Pair, start: int, stop: int) -> Pair:
    rows: Pair = tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[start:stop], pair)
    return rows
