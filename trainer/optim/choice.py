"""Choice of an optimizer or a schedule by name, and the check of its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from trackside.callbacks.errors import ArgumentError, did_you_mean

OptimizerClass = TypeVar("OptimizerClass")

NO_OPTIONS = frozenset({"self", "params", "kwargs"})
"""Parameters of an optimizer's constructor that are none of its options."""


def choose_optimizer(
    args: Any, optimizers: Mapping[str, Callable[[Any], tuple[OptimizerClass, dict[str, Any]]]], **general: Any
) -> tuple[OptimizerClass, dict[str, Any]]:
    """Return the class that ``args.optim`` names, and its options; ``args.optim_args`` overrides the others.

    Args:
        args: Read for optim and optim_args, and for what the table reads.
        optimizers: By name, returns a class and the options that follow from the arguments.
        general: Options of any optimizer, if neither the table nor ``args`` have another value.

    Raises:
        ArgumentError: If there is no optimizer of that name, or it has no such option; the message names the nearest.
    """
    name = str(args.optim)
    if name not in optimizers:
        raise ArgumentError("optim", name, f"one of {', '.join(optimizers)}.{did_you_mean(name, optimizers)}")
    optimizer_cls, options = optimizers[name](args)
    constructor: Any = optimizer_cls
    known = [name for name in inspect.signature(constructor.__init__).parameters if name not in NO_OPTIONS]
    given = dict(args.optim_args or {})
    check_options("optim_args", given, known, constructor.__name__)
    return optimizer_cls, {**general, **options, **given}


def plateau_options(args: Any, schedule_cls: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a schedule that waits for a fall or a rise, as ``args.greater_is_better`` says.

    Raises:
        ArgumentError: If it has no such option as ``args.lr_scheduler_kwargs`` hold; the message names the nearest.
    """
    given = dict(args.lr_scheduler_kwargs or {})
    _, *known = inspect.signature(schedule_cls).parameters
    check_options("lr_scheduler_kwargs", given, known, "reduce_lr_on_plateau")
    return {"mode": "max" if args.greater_is_better else "min", **given}


def check_options(field: str, options: Mapping[str, Any], known: Collection[str], owner: str) -> None:
    """Check the options that an argument gives.

    Args:
        field: The argument.
        owner: What has the options ``known``.

    Raises:
        ArgumentError: If one is unknown; the message names the nearest.
    """
    for option in options:
        if option not in known:
            allowed = f"{owner} takes {', '.join(known) or 'nothing'}.{did_you_mean(option, known)}"
            raise ArgumentError(field, dict(options), allowed)
