"""Distribution strategies of TensorFlow: one device, several devices, or several machines (TF_CONFIG).

Every process reads the same batches, which hold the examples of all replicas, and each replica takes its rows. So a
batch of any size is divided exactly among any number of replicas.

Source:
    https://www.tensorflow.org/guide/distributed_training
"""

from __future__ import annotations

import pickle
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from trackside.callbacks.errors import TracksideValueError
from trackside.callbacks.state import TrainerControl
from trackside.trainer.data.sharding import share_of
from trackside.trainer.distributed.collectives import Call
from trackside.trainer.distributed.control_sync import control_counts, take_control
from trackside.trainer.distributed.strategy import BaseStrategy

from .._compat import strategy_of
from ..data.leaves import rows_in
from ..weights.model_state import generator_states, parts_of, states_of
from ._compat import with_global_generator


class Needs(NamedTuple):
    """What callbacks need of the next update, which all processes do with the same functions.

    Attributes:
        in_pieces: A callback is called within the update.
        may_skip: A callback may skip it.
        is_observed: A callback is called before or after it.
    """

    in_pieces: bool = False
    may_skip: bool = False
    is_observed: bool = False


class DistributedStrategy(BaseStrategy):
    """The distribution of a run over replicas and processes; every process holds the full model.

    Attributes:
        strategy: The tf.distribute.Strategy of the run.
        replicas: Number of replicas of all processes together.
        first_replica: Index of the first one of the ``local_replicas``.
        own_needs: Returns what callbacks of this process need of the next update; see `Needs`.
    """

    def __init__(self, strategy: Any, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(rank, world_size)
        self.own_needs: Callable[[], Needs] = Needs
        self.strategy: Any = strategy
        self.replicas: int = int(strategy.num_replicas_in_sync)
        self.local_replicas = self.replicas // world_size
        self.first_replica: int = rank * self.local_replicas
        self._runs_here = self.replicas == 1

    # -- replicas -------------------------------------------------------------------------------------------------

    def adopt_variables(self, model: Any) -> None:
        """Use the strategy of ``model``'s variables: a single replica runs a model created without a strategy as it is.

        Raises:
            TracksideValueError: If the variables do not exist on every replica; the message has the solution.
        """
        strategy = strategy_of(model.variables[0]) if model.variables else None
        if self.replicas > 1 and model.variables and strategy is not self.strategy:
            raise TracksideValueError(
                f"the model's variable {model.variables[0].path!r} was made outside of the scope of args.strategy, a "
                f"{type(self.strategy).__name__} with {self.replicas} replicas. Build the model inside "
                "`with args.strategy.scope():`, or give TFTrainer model_init=..., which it calls there"
            )
        self._runs_here = strategy is None
        if strategy is not None:
            self.strategy = strategy

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which new variables belong to this run."""
        scope: AbstractContextManager[Any] = nullcontext() if self._runs_here else self.strategy.scope()
        return scope

    def run(self, function: Any, args: tuple[Any, ...]) -> Any:
        """Call ``function`` on every replica; called while a tf.function is traced."""
        return function(*args) if self._runs_here else self.strategy.run(with_global_generator(function), args=args)

    def local(self, value: Any) -> list[Any]:
        """Return the values of this process's replicas in a result of `run`."""
        return [value] if self._runs_here else list(self.strategy.experimental_local_results(value))

    def sum_replicas(self, values: list[Any]) -> list[Any]:
        """Return each of ``values`` summed over all replicas; called on a replica."""
        if self.replicas == 1:
            return values
        context = tf.distribute.get_replica_context()
        return list(context.all_reduce(tf.distribute.ReduceOp.SUM, values))

    def rows(self, examples: int) -> NDArray[np.int32]:
        """Return the start and the stop of the rows of each local replica, and the number of rows that count.

        Shapes:
            (local replicas, 3). A replica without rows gets the first row, which does not count.
        """
        spans = [share_of(examples, self.first_replica + index, self.replicas) for index in range(self.local_replicas)]
        rows = [(low, high, high - low) if high > low else (0, 1, 0) for low, high in spans]
        return np.array(rows, dtype=np.int32)

    def replica_slice(self, nested: Any, rows: Any) -> tuple[Any, Any]:
        """Return the rows of this replica, and 1.0 if they count, else 0.0; called on a replica."""
        if self.replicas == 1:
            return nested, None
        number = tf.distribute.get_replica_context().replica_id_in_sync_group - self.first_replica
        own = rows[number]
        with tf.device("CPU:0"):  # only these rows are copied to the replica's device
            share = tf.nest.map_structure(lambda leaf: rows_in(leaf, own[0], own[1]), nested)
        return share, tf.cast(own[2] > 0, tf.float32)

    def local_span(self, examples: int) -> tuple[int, int]:
        """Return the rows of a batch that belong to this process."""
        first, _ = share_of(examples, self.first_replica, self.replicas)
        _, last = share_of(examples, self.first_replica + self.local_replicas - 1, self.replicas)
        return first, last

    # -- processes ------------------------------------------------------------------------------------------------

    def share_states(self, model: Any) -> None:
        """Give every replica the running statistics of the first one, which are those that a checkpoint holds."""
        if self.replicas == 1:
            return
        generators = {id(state) for state in generator_states(model)}
        states = [parts_of([state]) for state in states_of(model) if id(state) not in generators]
        first = [np.asarray(parts[0]) for parts in states] if self.rank == 0 else None
        shared: list[Any] = self.collectives.gather("the running statistics", first)[0] or []
        for parts, value in zip(states, shared, strict=True):
            for part in parts:
                part.assign(value)

    @abstractmethod
    def needs(self) -> Needs:
        """Return what callbacks of any process need of the next update, the same on all processes."""


class SingleProcess(DistributedStrategy):
    """The only process of a run."""

    def needs(self) -> Needs:
        """Return what callbacks need of the next update."""
        return self.own_needs()

    def sync_control(
        self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False
    ) -> str | None:
        """Return ``stop_signal``."""
        return stop_signal

    def _all_gather(self, call: Call) -> list[Call]:
        return [call]


class MultiProcess(DistributedStrategy):
    """One process of several, joined through tf.distribute (TF_CONFIG).

    Args:
        strategy: A MultiWorkerMirroredStrategy.
        rank, world_size: Rank of this process, and number of processes.
    """

    def __init__(self, strategy: Any, rank: int, world_size: int) -> None:
        super().__init__(strategy, rank, world_size)
        self._needs = Needs()
        self._sum = tf.function(self._sum_once, reduce_retracing=True)

    def _sum_once(self, value: Any) -> Any:
        """Return ``value``, of the same shape on every process, summed over them."""

        def on_replica() -> Any:
            context = tf.distribute.get_replica_context()
            is_first = tf.equal(context.replica_id_in_sync_group, self.first_replica)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.where(is_first, value, tf.zeros_like(value)))

        return self.strategy.experimental_local_results(self.strategy.run(on_replica))[0]

    def _sum_over_processes(self, value: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._sum(tf.constant(value)))

    def sync_control(
        self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False
    ) -> str | None:
        """Apply the flags of rank 0 and return the stop signal of any rank, in one small reduction.

        The needs of all processes are in it: a callback may be attached on one of them only, or be detached there.
        """
        own = [*control_counts(control, stop_signal, self.rank), *self.own_needs()]
        sums = self._sum_over_processes(np.array(own, dtype=np.float64)).tolist()
        self._needs = Needs(*(count > 0 for count in sums[-len(self._needs) :]))
        return take_control(control, sums[: -len(self._needs)])

    def needs(self) -> Needs:
        """Return what callbacks of any process needed at the last agreement."""
        return self._needs

    def may_skip(self, is_steered: bool) -> bool:
        """Return whether any process may, as the last agreement says."""
        return self._needs.may_skip

    def _all_gather(self, call: Call) -> list[Call]:
        own = np.frombuffer(pickle.dumps(call), dtype=np.uint8)
        sizes = np.zeros(self.world_size, dtype=np.int32)
        sizes[self.rank] = len(own)
        sizes = self._sum_over_processes(sizes)
        table = np.zeros((self.world_size, int(sizes.max())), dtype=np.int32)
        table[self.rank, : len(own)] = own
        table = self._sum_over_processes(table)
        return [pickle.loads(row[:size].astype(np.uint8).tobytes()) for row, size in zip(table, sizes, strict=True)]


def strategy_for(args: Any) -> DistributedStrategy:
    """Return the strategy that ``args`` select."""
    if args.world_size > 1:
        return MultiProcess(args.strategy, args.process_index, args.world_size)
    return SingleProcess(args.strategy)
