"""Learning rates of a torch optimizer and its schedule, multiplied by a number for the rest of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from .._compat import inner_schedules
from .several import Schedules

OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr")
"""The rates in a parameter group: the present one, and those between which the schedules of torch move."""

OF_SCHEDULES = ("base_lrs", "max_lrs", "_last_lr")
"""The rates of each group in a schedule of torch."""


def scale_rates(optimizer: Any, schedule: Any, factor: float) -> str | None:
    """Multiply the learning rates of all groups, and those of the schedule, by ``factor``.

    Returns:
        Why the schedule does not keep to it; None if it does.
    """

    def is_one_of(rate: Any) -> bool:
        """Return whether a rate is a tensor of a group, which a compiled step reads, and which is changed in place."""
        return isinstance(rate, Tensor) and any(rate is group.get("lr") for group in optimizer.param_groups)

    for group in optimizer.param_groups:
        for name in OF_GROUPS:
            if name in group:
                group[name] = group[name].mul_(factor) if isinstance(group[name], Tensor) else group[name] * factor
    parts = list(_parts(schedule))
    for part in parts:
        for name in OF_SCHEDULES:
            if hasattr(part, name):
                setattr(part, name, [rate if is_one_of(rate) else rate * factor for rate in getattr(part, name)])
    own = [type(part).__name__ for part in parts if not any(hasattr(part, name) for name in OF_SCHEDULES)]
    return f"the schedule {own[0]} sets the rate itself" if own else None


def _parts(schedule: Any) -> Iterator[Any]:
    """Yield a schedule, or those of which it consists."""
    if schedule is None:
        return
    inner = schedule.parts.values() if isinstance(schedule, Schedules) else inner_schedules(schedule)
    for part in inner:
        yield from _parts(part)
    if not isinstance(schedule, Schedules):
        yield schedule


def step_to(schedule: Any, position: int) -> None:
    """Step a schedule from its beginning to where it is after ``position`` updates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer has not stepped, and that epochs are not given
        if type(schedule) is LambdaLR and position > 0:  # a function of the position
            schedule.last_epoch = position - 1
            schedule.step()
            return
        for _ in range(position):
            schedule.step()
