"""Whether an optimizer and its schedule belong to the model of a run, found before the first update."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from trackside.callbacks._util.display import first_names
from trackside.callbacks.errors import TracksideTypeError, TracksideValueError

logger: logging.Logger = logging.getLogger("trackside.trainer")

PAIR = "optimizers is (optimizer, schedule), not functions that make them"

REMEDY = "Make it of trainer.model.parameters(), or override create_optimizer(), which comes when the model is ready"


def check_optimizer(model: nn.Module, optimizer: Any, others: Callable[[], Iterable[Tensor]], *, tells: bool) -> None:
    """Check that an optimizer has the trainable parameters of a model, and no others, and can be stepped.

    Args:
        model: In the form for which the optimizer is made: on its device, or sharded.
        others: Returns the parameters of other optimizers, which callbacks or the trainer step.
        tells: Whether this process warns.

    Raises:
        TracksideTypeError: If it is not an optimizer.
        TracksideValueError: If it has none of them, so that it would train nothing.
    """
    if missing := [name for name in ("step", "zero_grad") if not hasattr(optimizer, name)]:
        raise TracksideTypeError(f"the optimizer, {_named(optimizer)}, has no {missing[0]}(). {PAIR}")
    named = dict(model.named_parameters())
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        return
    held, own = {each for group in groups for each in group["params"]}, set(named.values())
    trainable = [name for name, parameter in named.items() if parameter.requires_grad]
    if trainable and not held & own:
        raise TracksideValueError(
            f"the optimizer, {_named(optimizer)}, has none of the parameters of {_named(model)}, so that it would "
            "train nothing: it was made for another model, or before this one was moved, wrapped or sharded. " + REMEDY
        )
    missing = [name for name in trainable if named[name] not in held]
    if missing and tells:
        elsewhere = set(others())
        missing = [name for name in missing if named[name] not in elsewhere]
    if missing and tells:
        logger.warning(
            "%d of the %d trainable parameters of %s are in no group of the optimizer, and are not trained: %s. Freeze "
            "them (requires_grad_(False)), or add them",
            *(len(missing), len(trainable), _named(model), first_names(missing)),
        )
    if (foreign := held - own) and tells:
        logger.warning(
            "the optimizer, %s, has %d parameters that %s does not have: they are stepped, but not moved to a device, "
            "exchanged between processes or saved. Make them part of the model",
            *(_named(optimizer), len(foreign), _named(model)),
        )


def check_schedule(schedule: Any, optimizer: Any, updates: int) -> None:
    """Check that a schedule changes the groups of an optimizer, and is as long as a run of so many updates.

    Raises:
        TracksideTypeError: If it cannot be stepped.
        TracksideValueError: If it is that of another optimizer, so that it would change nothing, or is too short.
    """
    if schedule is not None and not hasattr(schedule, "step"):
        raise TracksideTypeError(f"the schedule, {_named(schedule)}, has no step(). {PAIR}")
    groups = {id(group) for group in getattr(optimizer, "param_groups", ())}
    for part in getattr(schedule, "parts", {"": schedule}).values():
        of = getattr(getattr(part, "optimizer", None), "param_groups", None)
        if of is not None and groups and groups.isdisjoint(map(id, of)):
            raise TracksideValueError(
                f"the schedule, {_named(part)}, changes the rates of another optimizer than the run's, "
                f"{_named(optimizer)}. Give both: optimizers=(optimizer, schedule), or override create_scheduler()"
            )
        if isinstance(part, OneCycleLR) and part.total_steps < updates:
            raise TracksideValueError(
                f"the schedule, OneCycleLR, cannot be stepped more than total_steps={part.total_steps} times, and the "
                f"run has {updates} updates"
            )


def holders_of(trainer: Any) -> list[Any]:
    """Return a trainer and its callbacks, which may have optimizers of their own."""
    return [trainer, *(item.callback for item in trainer.callback_report.values())]


def parameters_elsewhere(holders: Iterable[object], optimizer: Any) -> Iterator[Tensor]:
    """Yield the parameters of other optimizers that objects have as attributes, such as one that a callback steps."""
    for holder in holders:
        for value in getattr(holder, "__dict__", {}).values():
            if isinstance(value, Optimizer) and value is not optimizer:
                yield from (parameter for group in value.param_groups for parameter in group["params"])


def _named(part: object) -> str:
    return type(part).__name__
