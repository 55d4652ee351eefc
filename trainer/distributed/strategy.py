"""The framework-free base of distribution strategies: what the trainer asks of a run's processes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from trackside.callbacks.state import TrainerControl

from .collectives import Call, Collectives


class BaseStrategy(ABC):
    """The distribution of a run over processes.

    Args:
        rank: Rank of this process among all processes.
        world_size: Number of processes.

    Attributes:
        collectives: Collectives on objects.
        local_replicas: Number of replicas of the model that this process trains.
        is_sharded: Whether each process holds only a shard of the model.
    """

    local_replicas: int = 1
    is_sharded: bool = False

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank = rank
        self.world_size = world_size
        self.collectives: Collectives = Collectives(self._all_gather, rank, world_size)

    def may_skip(self, is_steered: bool) -> bool:
        """Return whether a rank may skip the update at hand; ``is_steered``: whether this one may."""
        return is_steered

    @abstractmethod
    def sync_control(
        self, control: TrainerControl, stop_signal: str | None, *, after_update: bool = False
    ) -> str | None:
        """Give every rank the flags of rank 0; return the stop signal that any rank received, or None.

        Args:
            control: The flags of this rank, set in place.
            stop_signal: The stop signal that this rank received.
            after_update: Whether this is the end of an update, where flags are exchanged only if a rank needs it.
        """

    @abstractmethod
    def _all_gather(self, call: Call) -> list[Call]:
        """Return the ``call`` of every rank, in rank order."""
