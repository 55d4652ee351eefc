"""The user's tf.data pipeline as a pure function of (seed, epoch)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from ...checkpointing.own_generators import may_draw
from ...data.sharding import derive_seed
from .._compat import global_seed, global_seed_generator, may_be_random, python_function
from .host_stream import HostStream
from .seeded_graph import SeededGraph

logger: logging.Logger = logging.getLogger("trackside.trainer")

FIXED = -1
"""Stands for the epoch in the seed of what is the same in every epoch."""


class UserPipeline:
    """Makes a user's dataset again for each epoch, with random numbers that are a function of (seed, epoch).

    Args:
        seed: The seed of the data.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._host = HostStream()
        self._kept = HostStream()
        self._last: tuple[Any, SeededGraph | None] = (None, None)
        self._told: set[str] = set()

    def of_epoch(self, dataset: Any, epoch: int) -> Any:
        """Return ``dataset`` with the random numbers of an epoch; itself if it has none."""
        if self._last[0] is not dataset:
            self._last = dataset, self._graph_of(dataset)
        graph = self._last[1]
        if graph is None:
            return dataset
        self._host.adopt(graph.tokens)
        self._kept.adopt(graph.kept_tokens)
        self._host.restart(self._seed, epoch)
        self._kept.restart(self._seed, FIXED)
        return graph.dataset(self._seed, epoch, fixed=self._seed) if graph.is_random else dataset

    @contextmanager
    def building(self, epoch: int) -> Iterator[None]:
        """Return a context for building the dataset of an epoch; random numbers drawn in it are those of the epoch."""
        seed, states = derive_seed(self._seed, epoch), eager_states()
        before = global_seed(), [tf.convert_to_tensor(state) for state in states]
        self._host.restart(seed)
        tf.random.set_seed(seed % 2**31)
        for state in states:
            state.assign([seed % 2**31, *[0] * (state.shape[0] - 1)])
        try:
            with self._host.in_place():
                yield
        finally:
            tf.random.set_seed(before[0])
            for state, value in zip(states, before[1], strict=True):
                state.assign(value)

    def _graph_of(self, dataset: Any) -> SeededGraph | None:
        if not may_be_random(dataset):
            return None
        try:
            graph = SeededGraph(dataset, _may_draw)
        except (tf.errors.OpError, ValueError) as error:
            self._tell(f"TensorFlow cannot describe the dataset ({str(error).splitlines()[0]})")
            return None
        for words in graph.inexact:
            self._tell(words)
        return graph if graph.is_random or graph.tokens or graph.kept_tokens else None

    def _tell(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            logger.warning("the training data may differ between runs and after a resume: %s", words)


def eager_states() -> list[Any]:
    """Return the variables of the global generators of Keras and TensorFlow."""
    return [global_seed_generator().state.value, tf.random.get_global_generator().state]


def _may_draw(token: bytes) -> bool:
    function = python_function(token)
    return function is not None and may_draw(function.original)
