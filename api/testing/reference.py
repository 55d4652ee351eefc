"""Reference: what a run without the callback comes to, made once for all checks of observers."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .tiny_trainer import tiny_trainer, weights_of

if TYPE_CHECKING:
    from trackside.trainer.base_trainer import BaseTrainer


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        weights: All weights of the model.
        losses: The losses of the training records, by step.
    """

    weights: list[Any]
    losses: dict[int, float]

    def equals(self, other: Outcome) -> bool:
        """Return whether both are the same, bit by bit."""
        pairs = zip(self.weights, other.weights, strict=True)
        return self.losses == other.losses and all((one == another).all() for one, another in pairs)


def outcome_of(trainer: BaseTrainer) -> Outcome:
    """Return what the training that has just ended came to."""
    losses = {record["step"]: record["loss"] for record in trainer.state.log_history if "loss" in record}
    return Outcome(weights_of(trainer), losses)


def reference_outcome(framework: str, args: Mapping[str, Any]) -> Outcome:
    """Return what a run without a callback comes to, after an evaluation."""
    return _reference(framework, tuple(sorted(args.items(), key=str)))


@functools.lru_cache(maxsize=16)
def _cached(framework: str, args: tuple[tuple[str, Any], ...]) -> Outcome:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trainer = tiny_trainer(framework, folder, **dict(args))
        trainer.evaluate()
        trainer.train()
        return outcome_of(trainer)


def _reference(framework: str, args: tuple[tuple[str, Any], ...]) -> Outcome:
    try:
        return _cached(framework, args)
    except TypeError:  # an argument that is not hashable
        return _cached.__wrapped__(framework, args)
