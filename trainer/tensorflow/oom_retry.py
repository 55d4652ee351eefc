"""Retry after out-of-memory errors: a micro-batch is halved until it fits, with the same effective batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from operator import itemgetter

import tensorflow as tf

from ..data.sharding import even_spans
from .data.leaves import examples_in, map_leaves
from .data.readers import Pair

logger: logging.Logger = logging.getLogger("trackside.trainer")


class OOMRetrier:
    """Runs micro-batches in as many parts as fit into memory; the number is kept for the following batches.

    Args:
        accumulate: Runs the forward and the backward pass of a part; its second argument is whether the part is the
            first of its update.

    Attributes:
        parts: The number of parts.
    """

    def __init__(self, accumulate: Callable[[Pair, bool], None]) -> None:
        self._accumulate = accumulate
        self.parts: int = 1

    def accumulate(self, pair: Pair, is_first: bool) -> None:
        """Run the forward and the backward pass of a micro-batch."""
        done, size = 0, examples_in(pair)
        while True:
            try:
                for start, stop in even_spans(size, self.parts):
                    if start >= done:
                        self._accumulate(map_leaves(itemgetter(slice(start, stop)), pair), is_first and start == 0)
                        done = stop
                return
            except tf.errors.ResourceExhaustedError as error:
                if self.parts >= size:
                    raise
                message = str(error).splitlines()[0]
            self.parts *= 2
            logger.warning("out of memory (%s); the micro-batch now goes in %d parts", message, self.parts)
