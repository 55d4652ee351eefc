"""Header of a run: four lines with its model, its data, its output and its callbacks, which displays print first."""

from __future__ import annotations

import math
from typing import Any

from trackside.callbacks._util.display import counted, shown
from trackside.callbacks.bus.dispatcher import Dispatcher

from ..data.limits import words_of_limits
from ..progress import TrainingPlan
from ..staging import address_of
from .descriptions import DataDescription, ModelDescription

UNITS = {"steps": "step", "epoch": "epoch", "best": "better evaluation"}
"""What an evaluation or a save follows, by the strategy of the arguments."""


def run_header(trainer: Any, engine: Any, plan: TrainingPlan, dispatcher: Dispatcher) -> str:
    """Return the header of a run that is about to begin, or to go on.

    Args:
        engine: Describes the model and the data.
        plan: The length of the run.
        dispatcher: Knows the callbacks.
    """
    model: ModelDescription = engine.describe_model()
    trained = "all" if model.trained == model.weights else f"{model.trained:,} of them"
    names = [name for name, item in dispatcher.attachments.items() if item.detached_after is None]
    lines = {
        "model": f"{model.name}, {model.weights:,} weights, {trained} trained, on {model.where}",
        "data": _data(trainer.args, engine.describe_data(), plan, trainer.state.global_step),
        "output": _output(trainer.args, trainer.state),
        "callbacks": ", ".join(names) or "none",
    }
    return "\n".join(f"{name:<11}{text}" for name, text in lines.items())


def _data(args: Any, data: DataDescription, plan: TrainingPlan, step: int) -> str:
    """Return the line of the data; it tells how large a batch is only where the trainer itself cuts the batches."""
    examples, size = data.examples, data.micro_batch
    known = "a stream" if examples is None else counted(examples, "example")
    updates = plan.max_steps
    if plan.batches_per_epoch is not None:
        updates = math.ceil(plan.batches_per_epoch / args.gradient_accumulation_steps)
    if size is not None:
        known += f" in batches of {size if size % args.world_size else size // args.world_size}"
    if args.gradient_accumulation_steps > 1:
        known += f" x {args.gradient_accumulation_steps} accumulated"
    if args.world_size > 1:
        is_even = size is None or size % args.world_size == 0
        known += f" x {args.world_size} processes" if is_even else f" over {args.world_size} processes"
    epoch = "" if plan.batches_per_epoch is None else f"{counted(updates, 'update')} an epoch, "
    begun = f", {step:,} of them done" if step else ""
    limit = words_of_limits(args)[0]
    return f"{known}{limit and ', '}{limit}: {epoch}{plan.max_steps:,} in all{begun}"


def _output(args: Any, state: Any) -> str:
    """Return the line of the output: the folder, and when the run saves and evaluates."""
    found = [str(address_of(args.output_dir))]
    for verb, strategy, steps in (
        ("saves", args.save_strategy, state.save_steps),
        ("evaluates", args.eval_strategy, state.eval_steps),
    ):
        unit = UNITS.get(str(getattr(strategy, "value", strategy)))
        every = f"every {steps:,} steps" if unit == "step" and steps != 1 else f"after each {unit}"
        found.append(f"never {verb}" if unit is None else f"{verb} {every}")
    found += filter(None, [words_of_limits(args)[1]])
    return ", ".join(found)


def short_text(trainer: Any) -> str:
    """Return a trainer in one line: its model, its folder, how far it has come, and how many callbacks it has."""
    parts = vars(trainer)
    state = parts["state"]
    place = f"step {state.global_step:,} of {state.max_steps:,}" if state.max_steps else "not trained yet"
    model, folder = type(parts["_model"]).__name__, shown(str(address_of(trainer.args.output_dir)))
    known = counted(len(parts["_dispatcher"].attachments), "callback")
    return f"<{type(trainer).__name__} of {model} in {folder}: {place}, {known}>"
