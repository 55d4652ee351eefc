"""Progress of a run: planned updates and epochs, accumulation windows, and the current position."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from trackside.callbacks.errors import ArgumentError, TracksideValueError

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingPlan:
    """The length of a run.

    Attributes:
        max_steps: Updates in the whole run.
        num_train_epochs: Epochs in the whole run, rounded up.
        batches_per_epoch: Micro-batches in one epoch on each process; None for a dataset without a length.
    """

    max_steps: int
    num_train_epochs: int
    batches_per_epoch: int | None


def plan_training(
    *, batches_per_epoch: int | None, accumulation_steps: int, num_train_epochs: float, max_steps: int
) -> TrainingPlan:
    """Return the length of a run; ``max_steps`` above 0 takes precedence over ``num_train_epochs``.

    Raises:
        ArgumentError: If the dataset has no length and ``max_steps`` is not given.
        TracksideValueError: If an epoch holds no batch.

    Example:
        >>> plan_training(batches_per_epoch=10, accumulation_steps=4, num_train_epochs=2.5, max_steps=-1)
        TrainingPlan(max_steps=8, num_train_epochs=3, batches_per_epoch=10)
    """
    if batches_per_epoch is None:
        if max_steps <= 0:
            raise ArgumentError("max_steps", max_steps, "a whole number above 0, since train_dataset has no length")
        return TrainingPlan(max_steps, 1, None)
    check_epoch(batches_per_epoch)
    updates_per_epoch = math.ceil(batches_per_epoch / accumulation_steps)
    if max_steps <= 0:
        max_steps = math.ceil(updates_per_epoch * num_train_epochs)
    return TrainingPlan(max_steps, math.ceil(max_steps / updates_per_epoch), batches_per_epoch)


def replan(
    plan: TrainingPlan,
    progress: Progress,
    batches: int,
    *,
    step: int,
    accumulation_steps: int,
    num_train_epochs: float,
    max_steps: int,
) -> TrainingPlan:
    """Return the length of a run whose current and later epochs have another number of micro-batches than planned.

    Args:
        plan: The length until now.
        progress: The position, in micro-batches of the current epoch.
        batches: Micro-batches in the current epoch on each process.
        step: Updates completed.

    Raises:
        TracksideValueError: If an epoch holds no batch.

    Example:
        >>> replan(TrainingPlan(6, 3, 2), Progress(epoch=1), 4, step=2, accumulation_steps=1, num_train_epochs=3,
        ...     max_steps=-1)
        TrainingPlan(max_steps=10, num_train_epochs=3, batches_per_epoch=4)
    """
    check_epoch(batches)
    updates = math.ceil(batches / accumulation_steps)
    begun = step - math.ceil(progress.batches_in_epoch / accumulation_steps)
    if max_steps > 0:
        return TrainingPlan(max_steps, progress.epoch + math.ceil((max_steps - begun) / updates), batches)
    owed = math.ceil(round(updates * (num_train_epochs - progress.epoch), 6))
    return TrainingPlan(begun + max(owed, step - begun), plan.num_train_epochs, batches)


def check_epoch(batches: int) -> None:
    """Raise TracksideValueError if an epoch holds no batch."""
    if batches == 0:
        raise TracksideValueError(
            "an epoch of train_dataset holds no batch: it is empty, or smaller than one batch with dataloader_drop_last"
        )


def is_cut_short(plan: TrainingPlan, epoch: int, max_steps: int, step: int) -> bool:
    """Return whether updates remain after the last epoch, since epochs were cut short; False with ``max_steps``."""
    return max_steps <= 0 and epoch >= plan.num_train_epochs and step < plan.max_steps


def show_plan(plan: TrainingPlan, args: Any, state: Any) -> None:
    """Set the fields of the state that show the length of a run, and the intervals that may be shares of it."""
    state.max_steps, state.num_train_epochs = plan.max_steps, plan.num_train_epochs
    for name in ("logging_steps", "eval_steps", "save_steps"):
        setattr(state, name, args.steps(name, plan.max_steps))


@dataclass
class Progress:
    """The position of the loop between two updates; saved in a checkpoint beside the state.

    Attributes:
        epoch: Epochs completed.
        batches_in_epoch: Micro-batches of the current epoch that each process has used.
        examples_in_epoch: Examples of the current epoch that all processes together have used.
        pending_loss: Sum of the losses of the updates since the last record.
        pending_steps: Number of those updates in which something counted.
        total_loss: Sum of the losses of all updates before that.
        empty_steps: Number of updates of the run in which nothing counted, such as a label.
        last_evaluation, last_save: The steps of the last evaluation and checkpoint; -1 for none.
        optimizer: Optimizer and schedule as made, described by `optim.resuming`; None if unknown.
        evaluation_is_due: Whether the evaluation of this step has still to be done, since a signal stopped the run.
        division: How the run divides its data, from `checkpointing.position`; None if unknown.
        batches_before, fraction_before: The position at which the run was resumed with other batches in the current
            epoch, in their number and as a share of the epoch.
        order_seed: Seed of the order of the current epoch; None for that of the arguments.
        resized: Examples and micro-batches of the current epoch, if a callback has changed the size of the data in the
            run; None if it has not.
        epoch_loss: Sum of the losses of the examples of the current epoch, where a callback asks for `CurrentEpoch`.
        epoch_loss_examples: Number of those examples.
        rate_factor: By what callbacks have multiplied the learning rates.
        is_in_epoch: Whether the events and actions at the end of the current epoch have still to come.
        last_record: What a log record says of the last update beside its loss; empty before the first.
        last_groups: The hyperparameters of each parameter group in that update.
        extra: Keys of a progress file that this version does not know; written back unchanged.
    """

    epoch: int = 0
    batches_in_epoch: int = 0
    examples_in_epoch: int = 0
    pending_loss: float = 0.0
    pending_steps: int = 0
    total_loss: float = 0.0
    empty_steps: int = 0
    last_evaluation: int = -1
    last_save: int = -1
    optimizer: dict[str, Any] | None = None
    evaluation_is_due: bool = False
    division: dict[str, Any] | None = None
    batches_before: int = 0
    fraction_before: float = 0.0
    order_seed: int | None = None
    resized: tuple[int | None, int] | None = None
    epoch_loss: float = 0.0
    epoch_loss_examples: int = 0
    rate_factor: float = 1.0
    is_in_epoch: bool = False
    last_record: dict[str, Any] = field(default_factory=dict)
    last_groups: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values, with the unknown keys of the file that they were read from."""
        values = dataclasses.asdict(self)
        return {**values.pop("extra"), **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """Build a position from `to_dict`'s values; unknown keys go to ``extra``."""
        known = {item.name for item in dataclasses.fields(cls)} - {"extra"}
        extra = {key: value for key, value in values.items() if key not in known}
        return cls(**{key: value for key, value in values.items() if key in known}, extra=extra)

    def epoch_with_fraction(self, plan: TrainingPlan, accumulation_steps: int) -> float:
        """Return the completed epochs plus the fraction of the current one.

        If the dataset has no length, ``plan.max_steps`` updates count as an epoch.
        """
        batches = plan.batches_per_epoch or plan.max_steps * accumulation_steps
        before, used = self.fraction_before, self.batches_before
        if used >= batches:
            return self.epoch + 1.0
        return self.epoch + (before + (1.0 - before) * (self.batches_in_epoch - used) / (batches - used))

    def goes_on(self, step: int, plan: TrainingPlan) -> bool:
        """Return whether updates remain, or the end of an epoch: a run may be killed after the last save before it."""
        return self.is_in_epoch or step < plan.max_steps

    def follow(self, step: Any) -> None:
        """Take from a `TrainStep` the losses of its updates, and what a record says of the last one.

        A run that was resumed and has done no update yet goes on with what its checkpoint says of the last.
        """
        self.add_loss(*step.take_loss())
        record, groups = step.training_record(), step.used_groups()
        self.last_record = record if groups else {**self.last_record, **record}
        self.last_groups = groups or self.last_groups

    def add_loss(self, loss: float, empty: int) -> None:
        """Add the losses of updates, without those in which nothing counted, of which there were ``empty``."""
        self.pending_loss += loss
        self.pending_steps -= empty
        self.empty_steps += empty

    def owes(self, action: str, state: Any) -> bool:
        """Return whether a run that stops here lacks its last evaluation or save, or is shorter than ``logging_steps``.

        Args:
            action: "log", "evaluate" or "save".
            state: Its steps are read. A run shorter than ``logging_steps`` owes a record of its losses if it has none.

        Example:
            >>> from types import SimpleNamespace
            >>> Progress(pending_steps=3).owes("log", SimpleNamespace(global_step=3, logging_steps=500))
            True
        """
        step: int = state.global_step
        if action == "log":
            return step < state.logging_steps and step == self.pending_steps + self.empty_steps
        return step != (self.last_evaluation if action == "evaluate" else self.last_save)

    def take_mean_loss(self) -> float | None:
        """Return the mean loss of the updates since the last record, which begins anew; None if there are none."""
        if self.pending_steps == 0:
            return None
        loss = self.pending_loss / self.pending_steps
        self.total_loss += self.pending_loss
        self.pending_loss, self.pending_steps = 0.0, 0
        return loss

    def loss_of_run(self, steps: int) -> float:
        """Return the mean loss of those of ``steps`` updates in which something counted; NaN if there were none such.

        Example:
            >>> Progress(total_loss=3.0, pending_loss=1.0, empty_steps=2).loss_of_run(4)
            2.0
        """
        counted = steps - self.empty_steps
        loss = self.total_loss + self.pending_loss
        return loss / counted if counted else math.nan if steps else 0.0

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch += 1
        self.batches_in_epoch = 0
        self.examples_in_epoch = 0
        self.batches_before, self.fraction_before, self.order_seed = 0, 0.0, None


def windows(batches: Iterator[T], size: int) -> Iterator[list[T]]:
    """Split ``batches`` into windows, one for each update; the last one may be shorter.

    A window is read only when requested, so that no batch is read ahead of its update.

    Example:
        >>> list(windows(iter("abcde"), 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    while window := list(islice(batches, size)):
        yield window
