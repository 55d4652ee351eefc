"""Learning-rate schedules as plain functions of the step, shared by both frameworks.

Each returns the factor of the learning rate; schedules outside `OWN_WARMUP` apply after the warm-up. The formulas and
the names of their options are those of transformers' ``get_scheduler``, so that a run moved here has the same learning
rate at every step.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from trackside.callbacks.errors import ArgumentError, check_one_of, did_you_mean

from .choice import check_options, values_of

logger: logging.Logger = logging.getLogger("trackside.trainer")

Schedule = Callable[[int], float]

GIVEN = frozenset({"step", "num_warmup_steps", "num_training_steps", "learning_rate"})
"""Parameters of a schedule that the trainer sets; all others are options."""

SHAPES = ("linear", "cosine", "1-sqrt")


def make_schedule(
    name: str,
    num_warmup_steps: int,
    num_training_steps: int,
    learning_rate: float | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Schedule:
    """Return the function from step to factor; all options are checked here, before the run.

    Args:
        name: One of `SCHEDULES`.
        num_warmup_steps: Updates over which the factor rises from 0.
        num_training_steps: Updates in the entire run.
        learning_rate: Required by schedules whose end is a learning rate (polynomial, and cosine_with_min_lr with
            min_lr).
        kwargs: Options of the schedule.

    Raises:
        ArgumentError: If the schedule or an option is unknown, or a value is not allowed.

    Example:
        >>> [make_schedule("linear", 2, 6)(step) for step in range(7)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    check_one_of("lr_scheduler_type", name, [*SCHEDULES, "reduce_lr_on_plateau"])
    function = SCHEDULES[name]
    options = dict(kwargs or {})
    parameters = inspect.signature(function).parameters
    check_options("lr_scheduler_kwargs", options, [option for option in parameters if option not in GIVEN], name)
    _check_values(name, options, num_warmup_steps, num_training_steps, learning_rate)
    given = {
        "num_warmup_steps": num_warmup_steps,
        "num_training_steps": num_training_steps,
        "learning_rate": learning_rate,
    }
    schedule = partial(function, **{key: value for key, value in given.items() if key in parameters}, **options)
    with values_of("lr_scheduler_kwargs", options, name):
        schedule(num_warmup_steps), schedule(max(num_warmup_steps, num_training_steps))
    return schedule if name in OWN_WARMUP else partial(_after_warmup, num_warmup_steps, schedule)


def check_schedule_of(args: Any) -> None:
    """Check the schedule that ``args`` select, before the length of the run is known.

    Raises:
        ArgumentError: See `make_schedule`; reduce_lr_on_plateau is not checked here.
    """
    if args.lr_scheduler_type != "reduce_lr_on_plateau":
        make_schedule(str(args.lr_scheduler_type), 0, 1, args.learning_rate, args.lr_scheduler_kwargs)


def schedule_of(args: Any, num_training_steps: int, learning_rate: float, **defaults: Any) -> Schedule:
    """Return the function from step to factor that ``args`` select.

    Args:
        args: Read for lr_scheduler_type, lr_scheduler_kwargs, warmup_steps and warmup_ratio.
        defaults: Options that lr_scheduler_kwargs may override.

    Raises:
        ArgumentError: If the schedule or an option is unknown, or a value is not allowed.
    """
    warmup = warmup_length(args.warmup_steps, args.warmup_ratio, num_training_steps)
    options = {**defaults, **(args.lr_scheduler_kwargs or {})}
    factor = make_schedule(str(args.lr_scheduler_type), warmup, num_training_steps, learning_rate, options)
    if 0 < num_training_steps <= warmup and factor(num_training_steps - 1) < 1.0 and args.process_index == 0:
        logger.warning(
            "the warm-up takes %d updates, and the run has %d: the learning rate ends at %.3g and does not reach %.3g. "
            "Set warmup_steps to less, or to a share of the run such as 0.1",
            *(warmup, num_training_steps, learning_rate * factor(num_training_steps - 1), learning_rate),
        )
    if args.warmup_steps and args.warmup_ratio and args.process_index == 0:
        text = "warmup_ratio=%g has no effect: warmup_steps=%g is given too, and makes a warm-up of %d updates"
        logger.warning(text, args.warmup_ratio, args.warmup_steps, warmup)
    if warmup > 0 and args.lr_scheduler_type == "constant" and args.process_index == 0:
        text = (
            "a warm-up of %d updates has no effect: lr_scheduler_type='constant' has none; 'constant_with_warmup' has"
        )
        logger.warning(text, warmup)
    return factor


def warmup_length(warmup_steps: float, warmup_ratio: float, num_training_steps: int) -> int:
    """Return the number of warm-up updates; ``warmup_steps``, below 1 a share of the run, overrides ``warmup_ratio``.

    Example:
        >>> warmup_length(20, 0.5, 100), warmup_length(0.05, 0.0, 30), warmup_length(0, 0.07, 100)
        (20, 2, 7)
    """
    if warmup_steps >= 1:
        return int(warmup_steps)
    return steps_of_share(warmup_steps or warmup_ratio, num_training_steps)


def steps_of_share(share: float, num_training_steps: int) -> int:
    """Return a share of a run in updates, rounded up except for floating-point noise.

    Example:
        >>> steps_of_share(0.07, 100), 0.07 * 100
        (7, 7.000000000000001)
    """
    return math.ceil(round(num_training_steps * share, 6))


def follows_metric(schedule: Any) -> bool:
    """Return whether a schedule follows a metric rather than steps, as torch's ReduceLROnPlateau does."""
    return hasattr(schedule, "num_bad_epochs")


def step_schedule(schedule: Any) -> None:
    """Step a schedule that is stepped once an update; do nothing for other schedules and None."""
    if schedule is not None and not follows_metric(schedule):
        schedule.step()


# -- the schedules ----------------------------------------------------------------------------------------------------


def _constant(step: int) -> float:
    return 1.0


def _linear(step: int, *, num_warmup_steps: int, num_training_steps: int) -> float:
    return max(0.0, (num_training_steps - step) / max(1, num_training_steps - num_warmup_steps))


def _cosine(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5) -> float:
    """Return the factor of Loshchilov and Hutter (2016), arXiv:1608.03983, without restarts; half a cycle ends at 0."""
    return max(0.0, _cosine_wave(num_cycles, _progress(step, num_warmup_steps, num_training_steps)))


def _cosine_with_restarts(step: int, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 1) -> float:
    """Return the factor of Loshchilov and Hutter (2016), arXiv:1608.03983."""
    progress = _progress(step, num_warmup_steps, num_training_steps)
    if progress >= 1.0:
        return 0.0
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(num_cycles) * progress) % 1.0))))


def _cosine_with_min_lr(
    step: int,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    learning_rate: float | None,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> float:
    floor = min_lr / (learning_rate or 1.0) if min_lr is not None else (min_lr_rate or 0.0)
    factor = _cosine_wave(num_cycles, _progress(step, num_warmup_steps, num_training_steps))
    return max(0.0, factor * (1 - floor) + floor)


def _polynomial(
    step: int,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    learning_rate: float,
    lr_end: float = 1e-7,
    power: float = 1.0,
) -> float:
    """Return the factor of the schedule in BERT's original code, with warm-up."""
    if step > num_training_steps:
        return lr_end / learning_rate
    remaining = 1 - _progress(step, num_warmup_steps, num_training_steps)
    return float(((learning_rate - lr_end) * remaining**power + lr_end) / learning_rate)


def _inverse_sqrt(step: int, *, num_warmup_steps: int, timescale: int | None = None) -> float:
    """Return the factor of the schedule in google-research/big_vision."""
    scale = timescale if timescale is not None else (num_warmup_steps or 10_000)
    return 1.0 / math.sqrt((step + scale - num_warmup_steps) / scale)


def _warmup_stable_decay(
    step: int,
    *,
    num_warmup_steps: int,
    num_training_steps: int,
    num_decay_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> float:
    """Return the factor of Hu et al. (2024), arXiv:2404.06395, section 4; by default the last tenth decays."""
    decay_steps = math.ceil(num_training_steps / 10) if num_decay_steps is None else num_decay_steps
    stable_steps = num_training_steps - num_warmup_steps - decay_steps if num_stable_steps is None else num_stable_steps
    if step < num_warmup_steps:
        factor = _rise(warmup_type, step / max(1, num_warmup_steps))
    elif step < num_warmup_steps + stable_steps:
        return 1.0
    elif step < num_warmup_steps + stable_steps + decay_steps:
        factor = _fall(decay_type, (step - num_warmup_steps - stable_steps) / max(1, decay_steps), num_cycles)
    else:
        return min_lr_ratio
    return max(0.0, factor * (1.0 - min_lr_ratio) + min_lr_ratio)


SCHEDULES: dict[str, Callable[..., float]] = {
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "polynomial": _polynomial,
    "constant": _constant,
    "constant_with_warmup": _constant,
    "inverse_sqrt": _inverse_sqrt,
    "warmup_stable_decay": _warmup_stable_decay,
}
"""Schedules that are functions of the step. (reduce_lr_on_plateau is not included: it follows a metric.)"""

OWN_WARMUP = ("constant", "warmup_stable_decay")
"""Schedules without the common linear warm-up: without a warm-up, or with their own."""


# -- their parts ------------------------------------------------------------------------------------------------------


def _after_warmup(num_warmup_steps: int, schedule: Schedule, step: int) -> float:
    return step / max(1, num_warmup_steps) if step < num_warmup_steps else schedule(step)


def _progress(step: int, num_warmup_steps: int, num_training_steps: int) -> float:
    return (step - num_warmup_steps) / max(1, num_training_steps - num_warmup_steps)


def _cosine_wave(num_cycles: float, progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * float(num_cycles) * 2.0 * progress))


def _rise(shape: str, progress: float) -> float:
    if shape == "linear":
        return progress
    if shape == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * progress))
    return 1.0 - math.sqrt(1.0 - progress)


def _fall(shape: str, progress: float, num_cycles: float) -> float:
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return _cosine_wave(num_cycles, progress)
    return 1.0 - math.sqrt(progress)


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_values(
    name: str, options: Mapping[str, Any], num_warmup_steps: int, num_training_steps: int, learning_rate: float | None
) -> None:
    if num_warmup_steps < 0:
        raise ArgumentError("warmup_steps", num_warmup_steps, "at least 0")
    if num_training_steps < 0:
        raise ArgumentError("num_training_steps", num_training_steps, "at least 0")
    for option in ("warmup_type", "decay_type"):
        if options.get(option, SHAPES[0]) not in SHAPES:
            near = did_you_mean(str(options[option]), SHAPES)
            _refuse(options, f"{option} is one of {', '.join(SHAPES)}.{near}")
    if name == "cosine_with_min_lr" and (options.get("min_lr") is None) == (options.get("min_lr_rate") is None):
        _refuse(options, "cosine_with_min_lr needs either min_lr or min_lr_rate")
    if name == "polynomial" or options.get("min_lr") is not None:
        end = options.get("lr_end", 1e-7) if name == "polynomial" else options["min_lr"]
        if learning_rate is None or not learning_rate >= end:
            _refuse(options, f"{name} ends at {end}, which must not be above learning_rate={learning_rate}")


def _refuse(options: Mapping[str, Any], allowed: str) -> None:
    raise ArgumentError("lr_scheduler_kwargs", dict(options), allowed)
