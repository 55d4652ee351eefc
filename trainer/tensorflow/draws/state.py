"""State of the random numbers that a model draws by ``tf.random.*``, which TensorFlow keeps in its kernels.

While a step is traced, `replacing` lets its random operations take their seeds from here. The seed of a draw is a
function of the run's seed, the number of the micro-batch, the replica, the place of the operation in its function, and
how often it drew in this micro-batch. Operations that the user gave the same seed draw the same numbers, such as those
for an image and its mask.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import tensorflow as tf

from ...checkpointing.random_state import generators_lent, host_random_state, set_host_random_state
from ...data.sharding import derive_seed
from ..distributed.strategy import DistributedStrategy
from .operations import Given, drawing_functions, drawing_operations, patched

logger: logging.Logger = logging.getLogger("trackside.trainer")

SEED, POSITION, COUNTS = 0, 1, 2
"""Places in the state: the seed of the run, the number of micro-batches, and the numbers of draws."""
SLOTS = 256
"""Number of counters; operations that share one draw different numbers all the same."""
APART = 0x1E3779B99E3779B1
"""Distance of the seeds of two micro-batches, and of two replicas: XLA takes the lower 32 bits, whose multiples by the
golden ratio are far apart, too."""


class Draws:
    """The state, one variable for each local replica, of this process.

    It is not of one run, since a tf.function of the user that an earlier run traced refers to it, as functions do to
    the global generators of TensorFlow and Keras.

    Attributes:
        touched: Resources that the micro-batches of the last trace captured.
    """

    def __init__(self) -> None:
        self._first: list[int] = [0, 0]
        self._variables: dict[str, Any] = {}
        self._device = ""  # of the first replica
        self._told: set[str] = set()
        self._tracing = threading.RLock()
        self._places = _Places()
        self.touched: list[Any] = []

    # -- the state, on the host -----------------------------------------------------------------------------------

    def seed(self, seed: int) -> None:
        """Begin the numbers of ``seed``, for a new run."""
        self._told.clear()
        self.restore([derive_seed(seed), 0])

    def value(self) -> list[int]:
        """Return the state of the first replica; replicas draw by one seed."""
        variable = self._variables.get(self._device)
        values = self._first if variable is None else variable.numpy().tolist()
        drawn = [place for place, value in enumerate(values) if value or place < COUNTS]
        return list(values[: drawn[-1] + 1])

    def restore(self, value: Sequence[int]) -> None:
        """Set every replica to a state that `value` returned."""
        self._first = list(value)
        for variable in self._variables.values():
            variable.assign(_padded(value))

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Return a context after which the state is as it was before."""
        before = self.value()
        try:
            yield
        finally:
            self.restore(before)

    def variables(self) -> list[Any]:
        """Return the variables of the state."""
        return list(self._variables.values())

    # -- while a function is traced -------------------------------------------------------------------------------

    @contextmanager
    def replacing(self, strategy: DistributedStrategy) -> Iterator[None]:
        """Return a context in which the random operations of functions that are traced take their seeds from here.

        On TPUs they keep their own. What Python draws meanwhile is a function of the seed, too: a layer may choose
        among operations, such as AugMix.
        """
        self.touched = []
        devices = list(strategy.strategy.extended.worker_devices) if strategy.replicas > 1 else [""]
        if any("TPU" in device for device in devices):
            yield
            return
        self._device = devices[0]
        for device in devices:
            if device not in self._variables:
                with tf.init_scope(), tf.device(device or None):
                    self._variables[device] = tf.Variable(_padded(self._first), trainable=False, dtype=tf.int64)
        with self._tracing, patched(self._next_seed), _host_seeded(self.value()[SEED]):
            yield

    @contextmanager
    def micro_batch(self) -> Iterator[None]:
        """Return a context for tracing a micro-batch on a replica, whose draws differ from those of all others."""
        graph = tf.compat.v1.get_default_graph()
        before = {id(tensor) for tensor in getattr(graph, "external_captures", ())}
        with self._places.beginning(graph):
            yield
        state = self._variables.get(_device())
        captured = getattr(graph, "external_captures", ())
        self.touched += [part for part in captured if part.dtype == tf.resource and id(part) not in before]
        if state is not None and any(tensor is state.handle for tensor in captured):
            now = state.read_value()
            after = tf.stack([now[SEED], now[POSITION] + 1])
            state.assign(tf.concat([after, tf.zeros(SLOTS, tf.int64)], axis=0))

    def tell_of_others(self, graph: Any) -> None:
        """Warn once in a run of each random operation in a graph that keeps its state in a kernel all the same."""
        found = [kind for kind in drawing_operations(graph) if kind not in self._told]
        self._told.update(found)
        if found:
            logger.warning(
                "a resumed run will differ: the model draws by %s, whose state cannot be saved. Draw by keras.random.* "
                "or tf.random.*, in functions that are traced with the step",
                ", ".join(found),
            )
        for name in drawing_functions(graph):
            if name not in self._told:
                self._told.add(name)
                logger.warning(
                    "a resumed run will differ: the Python function %s, which the model calls, draws from a generator "
                    "of its own, which is not saved. Draw from np.random or random, or by tf.random.*",
                    name,
                )

    def _next_seed(self, given: Given) -> Any:
        """Return the seed of the next draw of an operation that is added to the current graph.

        Shapes:
            (2,).
        """
        name, index = self._places.next(tf.compat.v1.get_default_graph())
        slot = COUNTS + (_hash(name) + index) % SLOTS
        identity = _hash(given.kind, name, index) if given.seeds is None else _hash(given.kind, given.seeds)
        state, context = self._variables[_device()], tf.distribute.get_replica_context()
        replica = tf.cast(0 if context is None else context.replica_id_in_sync_group, tf.int64)
        count = state.assign_add(tf.one_hot(slot, COUNTS + SLOTS, dtype=tf.int64), read_value=False)
        with tf.control_dependencies([count]):
            now = state.read_value()
        of_place = tf.bitwise.bitwise_xor(now[SEED], tf.constant(identity, tf.int64)) + replica * APART
        return tf.stack([of_place, now[POSITION] * APART + now[slot]])


class _Places(threading.local):
    """The places of random operations in the functions that a thread traces: name of the function, and index in it."""

    def __init__(self) -> None:
        self._next_in: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._step: tuple[Any, str] = (None, "")

    @contextmanager
    def beginning(self, graph: Any) -> Iterator[None]:
        """Return a context in which ``graph`` is that of a micro-batch, however the step is divided into functions."""
        before, self._step = self._step, (graph, _letters(graph.get_name_scope()))
        self._next_in[graph] = 0
        try:
            yield
        finally:
            self._step = before

    def next(self, graph: Any) -> tuple[str, int]:
        """Return the place of the next operation, which is the same in every process that traces the step."""
        of_step, scope = self._step
        index = self._next_in.get(graph, 0)
        self._next_in[graph] = index + 1
        name = "" if graph is of_step else _letters(getattr(graph, "name", "")).removeprefix(scope)
        return name, index


def _letters(name: str) -> str:
    """Return a name without the counters of Keras and TensorFlow."""
    return re.sub(r"[\d_/]+", "", name)


@contextmanager
def _host_seeded(seed: int) -> Iterator[None]:
    """Return a context in which the generators of Python and numpy begin with ``seed``, and are restored afterwards."""
    with generators_lent():
        before = host_random_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            set_host_random_state(before)


def _device() -> str:
    """Return the device of the replica that is traced; empty where there is one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return ""
    here = list(context.strategy.extended.worker_devices)  # of this process; its replicas are numbered in sequence
    return str(here[tf.get_static_value(context.replica_id_in_sync_group) % len(here)])


def _hash(*parts: Any) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _padded(value: Sequence[int]) -> list[int]:
    return [*value, *[0] * (COUNTS + SLOTS - len(value))]


DRAWS = Draws()
"""The draws of this process."""
