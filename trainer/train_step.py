"""Training step: the abstract class of one update, and the micro-batches that it works through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class TrainBatch(NamedTuple):
    """A micro-batch: its inputs, and its examples in this process and on all processes together."""

    inputs: Any
    examples: int
    examples_of_all: int


@dataclass(slots=True)
class StepContext:
    """The context of one micro-batch in the training step.

    Attributes:
        index, count: Index of the micro-batch in the update, from 0, and number of micro-batches of the update.
        is_padding: Whether it only keeps this rank in step with the others and does not count.
        is_single: Whether it is the whole update on one process, so that its mean loss is that of the update.
        is_weighed: Whether ``weight`` is set.
        is_part: Whether it is a part of a micro-batch that was split to fit into memory.
        items: Number of items in its mean loss; None if they were not counted.
        weight: ``items`` relative to a constant; the factor of its loss in the backward pass.
    """

    index: int = 0
    count: int = 1
    is_padding: bool = False
    is_single: bool = False
    is_weighed: bool = False
    is_part: bool = False
    items: Any = None
    weight: Any = 1.0

    @property
    def is_last(self) -> bool:
        """Whether the update is complete with this micro-batch."""
        return self.index + 1 == self.count


class TrainStep(ABC):
    """One update, from a batch to the optimizer. The loop calls the first methods in this order."""

    @abstractmethod
    def fused_update(self, window: Sequence[Any]) -> bool:
        """Do a whole update in one call; return False if the loop must do it step by step."""

    @abstractmethod
    def micro_step(self, batch: Any, context: StepContext) -> None:
        """Run the forward and the backward pass of a micro-batch."""

    @abstractmethod
    def finish_gradients(self) -> Any:
        """Normalize, unscale and clip the gradients; return their norm before clipping, still on the device."""

    @abstractmethod
    def optimizer_step(self) -> bool:
        """Step the optimizer; return whether the loss scaler skipped the step."""

    @abstractmethod
    def end_update(self, skipped: bool) -> None:
        """Step the schedule, unless the optimizer's step was skipped, and clear the gradients."""

    @abstractmethod
    def end_run(self) -> None:
        """Leave the model as it is used after training; called at the end of a run, also after an exception."""

    # -- an update that a callback skips: called only if one may do so ------------------------------------------------

    @abstractmethod
    def keep_state(self) -> None:
        """Keep what a forward pass changes, such as running statistics; called before an update."""

    @abstractmethod
    def update_loss(self) -> float | None:
        """Return the mean loss of the update whose gradients are complete, over all processes; None if nothing counts.

        All processes call it together. Waits for the device.
        """

    @abstractmethod
    def take_back(self, *, is_kept: bool) -> None:
        """Make of the update one in which nothing counted; restore what `keep_state` kept in it, if it did."""

    # -- losses and records -------------------------------------------------------------------------------------------

    @abstractmethod
    def take_loss(self) -> tuple[float, int]:
        """Return the losses since the last call, summed, and the updates without one. Waits for the device."""

    @abstractmethod
    def first_non_finite(self, *, wait: bool) -> tuple[int, float] | None:
        """Return the first update of the run whose loss is not finite, and that loss; with ``wait``, look for it."""

    @abstractmethod
    def watch_losses(self) -> None:
        """Begin another sum of the losses of the run, each as it was computed; before the first update."""

    @abstractmethod
    def take_watched_losses(self) -> tuple[float, int]:
        """Return that sum since the last call, and the updates in which nothing counted. Waits for the device."""

    @abstractmethod
    def training_record(self) -> dict[str, float]:
        """Return the gradient norm and the learning rate of the last update for a log record. Waits for the device."""

    @abstractmethod
    def used_groups(self) -> list[dict[str, Any]]:
        """Return the hyperparameters of each parameter group in the last update; empty before the first update."""

    @abstractmethod
    def take_flos(self) -> float:
        """Return the floating point operations of all processes since the last call."""


def mixed(why: str) -> str:
    """Return what is told where the examples of a batch depend on each other."""
    remedy = "Only a larger per_device_train_batch_size lets more examples see each other"
    return f"an update differs from that of one large batch, since {why}. {remedy}"
