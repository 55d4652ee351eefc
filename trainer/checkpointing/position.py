"""The position of a resumed run in its data, and the updates that it owes, under other arguments and with other data.

The position is counted in examples of all processes. A run that is resumed with another batch size, accumulation or
number of processes goes on until the examples that ``num_train_epochs`` owe are seen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..measuring.descriptions import DataDescription
from ..progress import Progress, TrainingPlan, is_cut_short, plan_training, replan
from .restoring import SavedRun

logger: logging.Logger = logging.getLogger("trackside.trainer")


@dataclass(frozen=True)
class Division:
    """How a run divides its data; a checkpoint holds it, to be compared with that of the run that resumes from it.

    Attributes:
        dataset: ``examples``, the number of examples or None, and ``columns``, their names or types.
        batches_per_epoch: Micro-batches in one epoch on each process; None if unknown.
        micro_batch: Examples in a micro-batch of all processes together.
        accumulation_steps: Micro-batches of an update.
        world_size: Number of processes.
        num_train_epochs, max_steps: The arguments of these names.
    """

    dataset: dict[str, Any]
    batches_per_epoch: int | None
    micro_batch: int
    accumulation_steps: int
    world_size: int
    num_train_epochs: float
    max_steps: int

    @classmethod
    def of(cls, args: Any, data: DataDescription, batches_per_epoch: int | None) -> Division:
        """Return the division of a run with ``args``."""
        return cls(
            {"examples": data.examples, "columns": data.columns},
            batches_per_epoch,
            args.global_micro_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
            args.num_train_epochs,
            args.max_steps,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, as a checkpoint holds them."""
        return dict(vars(self))

    def differences(self, before: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return what the arguments do not tell: the dataset and the processes, as (old, new) by name."""
        now = {"train_dataset": self.dataset, "world_size": self.world_size}
        then = {"train_dataset": before.get("dataset"), "world_size": before.get("world_size")}
        return {name: (then[name], now[name]) for name in now if then[name] not in (None, now[name])}


def plan_run(args: Any, engine: Any, saved: SavedRun | None) -> tuple[TrainingPlan, Progress, Division]:
    """Have an engine build its data; return the length of a run, its position, and how it divides the data.

    Args:
        saved: What the checkpoint says; None for a run from the beginning.
    """
    batches = engine.prepare_data(None if saved is None else saved.progress.resized)
    division = Division.of(args, engine.describe_data(), batches)
    plan = plan_training(
        batches_per_epoch=batches,
        accumulation_steps=args.gradient_accumulation_steps,
        num_train_epochs=args.num_train_epochs,
        max_steps=args.max_steps,
    )
    if saved is None:
        return plan, Progress(), division
    return resume_position(args, saved, division, plan, engine.batches_used), saved.progress, division


def resume_position(
    args: Any,
    saved: SavedRun,
    division: Division,
    plan: TrainingPlan,
    batches_used: Callable[[Progress], int | None],
) -> TrainingPlan:
    """Go to the position of a checkpoint in the data of this run; return the length of the resumed run, and tell it.

    Args:
        saved: What the checkpoint says; its position is changed in place.
        division: How this run divides its data.
        plan: The length of a run from the beginning.
        batches_used: Returns this process's micro-batches for the examples used; None if unknown.
    """
    progress, step, planned = saved.progress, saved.state.global_step, saved.state.max_steps
    if not saved.has_progress:
        _count_from_epoch(progress, saved.state.epoch or 0.0, division)
    if args.ignore_data_skip:  # back to the beginning of the epoch
        progress.batches_in_epoch = progress.examples_in_epoch = progress.batches_before = 0
        progress.fraction_before = 0.0
    go_to_position(progress, division, batches_used(progress))
    old_seed = _order_seed(progress, saved.args)
    progress.order_seed = old_seed if progress.examples_in_epoch and old_seed != args.order_seed else None
    plan = resumed_plan(plan, progress, division, step, planned)
    if args.process_index == 0:
        tell_plan(plan, step, planned, args.num_train_epochs, by_epochs=args.max_steps <= 0)
    return plan


def _count_from_epoch(progress: Progress, epoch: float, division: Division) -> None:
    """Count a position of which only the epochs are known, as in a checkpoint of transformers."""
    batches = division.batches_per_epoch
    if batches is None:
        return
    progress.batches_in_epoch = round((epoch - progress.epoch) * batches)
    progress.examples_in_epoch = progress.batches_in_epoch * division.micro_batch
    if progress.batches_in_epoch:
        logger.warning(
            "the checkpoint says that %g epochs are done, and not in which order: the first %d batches of this one are "
            "left out",
            *(epoch, progress.batches_in_epoch),
        )


def _order_seed(progress: Progress, args: dict[str, Any]) -> Any:
    """Return the seed of the order of the epoch in which a checkpoint was written."""
    if progress.order_seed is not None:
        return progress.order_seed
    return args.get("seed") if args.get("data_seed") is None else args["data_seed"]


def go_to_position(progress: Progress, division: Division, used: int | None) -> None:
    """Count the position in micro-batches of this run; one that is beyond the end of the data is its end.

    Args:
        progress: The position in the checkpoint; changed in place.
        used: Micro-batches of this run for the examples used; None if unknown.
    """
    before, examples = progress.division or {}, division.dataset["examples"]
    batches = division.batches_per_epoch
    if used is None:
        is_resized = before.get("micro_batch", division.micro_batch) != division.micro_batch
        used = -(-progress.examples_in_epoch // division.micro_batch) if is_resized else progress.batches_in_epoch
    if before.get("dataset", division.dataset) != division.dataset and examples is not None:
        progress.examples_in_epoch = min(progress.examples_in_epoch, examples)
    used = used if batches is None else min(used, batches)
    is_same = before.get("batches_per_epoch", batches) == batches and used == progress.batches_in_epoch
    progress.batches_in_epoch = used
    if not is_same and examples and batches:
        progress.batches_before = used
        progress.fraction_before = progress.examples_in_epoch / examples if used < batches else 1.0


def resumed_plan(plan: TrainingPlan, progress: Progress, division: Division, step: int, planned: int) -> TrainingPlan:
    """Return the length of a resumed run.

    Args:
        plan: The length of a run from the beginning.
        progress: The position, in micro-batches of this run.
        step: Updates completed.
        planned: Updates of the run that wrote the checkpoint.
    """
    per_epoch = division.batches_per_epoch
    if progress.division is None or per_epoch is None:
        return plan
    if progress.division == division.to_dict():
        if is_cut_short(plan, progress.epoch, division.max_steps, step):
            return replace(plan, max_steps=step)
        return replace(plan, max_steps=planned) if division.max_steps <= 0 and planned > 0 else plan
    size = division.accumulation_steps
    updates = math.ceil(per_epoch / size)
    done = updates * (progress.epoch + 1) - math.ceil((per_epoch - progress.batches_in_epoch) / size)
    if division.max_steps > 0:
        left = max(0, plan.max_steps - step)
        return replace(plan, num_train_epochs=math.ceil((done + left) / updates))
    owed = math.ceil(updates * division.num_train_epochs)
    left = max(0, owed - done)
    return replace(plan, max_steps=step + left, num_train_epochs=math.ceil(max(owed, done) / updates))


def tell_plan(plan: TrainingPlan, step: int, planned: int, epochs: float, *, by_epochs: bool) -> None:
    """Log that a resumed run has another length than the checkpoint's, or that nothing is left to train.

    Args:
        step: Updates completed.
        planned: Updates of the run that wrote the checkpoint.
        epochs: ``num_train_epochs``.
        by_epochs: Whether the length follows from ``epochs``.
    """
    asked = f"num_train_epochs={epochs:g}" if by_epochs else f"max_steps={plan.max_steps}"
    if step >= plan.max_steps:
        words = "nothing is left to train: the checkpoint has done %d updates, and %s asks for no more"
        logger.warning(words, step, asked)
    elif by_epochs and plan.max_steps != planned:
        words = "the run ends after %d updates instead of %d: %d are left of %s"
        logger.warning(words, plan.max_steps, planned, plan.max_steps - step, asked)


# -- data that a callback resizes -------------------------------------------------------------------------------------


def tell_of_size(examples: int | None, before: int | None, rank: int) -> None:
    """Log that the data does not have the size to which a callback had changed it before the checkpoint."""
    if examples != before and rank == 0:
        logger.warning(
            "resuming: the training data has %s examples, and a callback had changed their number to %s: the resumed "
            "run is exact if the callback sets it again in on_epoch_begin",
            examples,
            before,
        )


def go_to_resized(
    args: Any, progress: Progress, division: Division, plan: TrainingPlan, step: int, used: int | None
) -> TrainingPlan:
    """Take another size of the data into account, from the current epoch on; return the new length, and tell it.

    Args:
        progress: The position; changed in place.
        division: How the run divides its data from now on.
        plan: The length until now.
        step: Updates completed.
        used: Micro-batches for the examples used in the epoch; None if unknown.
    """
    before, batches, is_first = progress.division or {}, division.batches_per_epoch, progress.resized is None
    assert batches is not None
    is_within = progress.examples_in_epoch > 0
    go_to_position(progress, division, used)
    progress.resized, progress.division = (division.dataset["examples"], batches), division.to_dict()
    new = replan(
        plan,
        progress,
        batches,
        step=step,
        accumulation_steps=args.gradient_accumulation_steps,
        num_train_epochs=args.num_train_epochs,
        max_steps=args.max_steps,
    )
    if args.process_index == 0:
        level = logging.WARNING if is_first or is_within else logging.INFO
        logger.log(level, *_words_of(progress.epoch, before, division, plan, new, is_within=is_within))
    return new


def _words_of(
    epoch: int, before: dict[str, Any], now: Division, plan: TrainingPlan, new: TrainingPlan, *, is_within: bool
) -> tuple[Any, ...]:
    """Return a message for a logger, with its arguments."""
    sizes = [
        f"{batches} batches" if examples is None else f"{examples} examples"
        for examples, batches in (
            (now.dataset["examples"], now.batches_per_epoch),
            ((before.get("dataset") or {}).get("examples"), before.get("batches_per_epoch")),
        )
    ]
    rest = " Its rest is not what the interrupted run would have seen." if is_within else ""
    words = "epoch %d of the training data has %s instead of %s: the run ends after %d updates instead of %d.%s"
    return words, epoch, *sizes, new.max_steps, plan.max_steps, rest
