"""Hyperparameters of a resumed run: which come from the checkpoint, and which from the new arguments.

A checkpoint records its optimizer and schedule *as made*: the values that they had before the first update. A resumed
run makes its own from the new arguments and compares. A value that was made alike then and now stays as it is in the
checkpoint, since a schedule or a callback may have changed it in the meantime; a value that was made differently is
that of the new arguments. State, such as the moments of Adam, is always restored, if it fits.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from trackside.callbacks._util.display import first_names

from .lr_schedules import follows_metric

MAX_DEPTH = 8
"""Nesting of values up to which `described` looks at them."""

MAX_ITEMS = 64
"""Elements of arrays up to which `described` has their values; of larger ones it has the shape."""


class MadeOptimizer(ABC):
    """An optimizer and its schedule as made, before anything is restored.

    Attributes:
        optimizer, schedule: The optimizer and the schedule.
        record: A description in JSON types, which the checkpoints of the run hold.
    """

    optimizer: Any
    schedule: Any
    record: dict[str, Any]

    @abstractmethod
    def load_optimizer(self, content: Any, before: Mapping[str, Any] | None) -> list[str]:
        """Restore the optimizer's state, and the hyperparameters that were made alike.

        Args:
            content: The content of the checkpoint's optimizer file; None if the state is restored already.
            before: The record of the checkpoint; None if it has none.

        Returns:
            Sentences about state that could not be restored.
        """

    def load_schedule(self, state: Any, before: Mapping[str, Any] | None, step: int) -> list[str]:
        """Restore the schedule if it was made alike, or else go to the same position with the new one.

        Args:
            state: The state of the checkpoint's schedule; None if it had none.
            before: The record of the checkpoint; None if it has none.
            step: Updates completed.

        Returns:
            A sentence about the new learning rate, if the schedule was made differently.
        """
        schedule, now, then = self.schedule, self.record["schedule"], schedule_before(before)
        if schedule is None:
            return []
        if state is not None and then == now:
            schedule.load_state_dict(state)
        elif follows_metric(schedule):
            if state is not None and (not then or then["class"] == now["class"]):
                made = then["state"] if then else now["state"]
                schedule.load_state_dict(merged(schedule.state_dict(), state, made, now["state"]))
        else:
            position = position_of(state, then, now, step)
            self._go_to(position)
            return [rate_note(now["class"], self._rate(), position)] if then else []
        return []

    @abstractmethod
    def reschedule(self, make: Callable[[], Any], step: int) -> None:
        """Replace the schedule by one for another length of the run, at the same position, unless it is made alike.

        Args:
            make: Makes the schedule.
            step: Updates completed.
        """

    @abstractmethod
    def scale_rates(self, factor: float) -> str | None:
        """Multiply the learning rates, and those that the schedule begins with, by ``factor``.

        Returns:
            Why the schedule will not keep to it, or the rates cannot be set; None if it will.
        """

    @abstractmethod
    def _go_to(self, position: int) -> None:
        """Take the schedule, as made, to where it is after ``position`` updates."""

    @abstractmethod
    def _rate(self) -> float:
        """Return the learning rate where the schedule is."""


def frozen_as_in(
    before: Mapping[str, Any] | None, record: Mapping[str, Any], set_flags: Callable[[str], Sequence[str]]
) -> list[str]:
    """Freeze and unfreeze what callbacks had frozen and unfrozen, if the layers were trainable alike at first.

    Args:
        before: The record of the checkpoint; None if it has none.
        record: The record of this run.
        set_flags: Sets the flags that a record holds, and returns the names of the layers and weights in their order.

    Returns:
        A sentence, if callbacks had done so.
    """
    then = (before or {}).get("trainable")
    if then is None or then["made"] == then["now"]:
        return []
    if then["made"] != record["trainable"]["made"]:
        return ["callbacks had frozen or unfrozen layers; this run keeps those that its own model has trainable"]
    flags = zip(set_flags(then["now"]), then["made"], then["now"], strict=True)
    names = [name for name, made, now in flags if made != now]
    return [f"callbacks had frozen or unfrozen {first_names(names, 3)}, which holds until a callback changes it"]


def schedule_before(before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the description of the schedule in a checkpoint's record; empty if there is none."""
    return (before or {}).get("schedule") or {}


def position_of(state: Any, before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> int:
    """Return the updates that a schedule has seen; the loss scaler's skipped updates are not among them.

    Args:
        state: The state of the checkpoint's schedule.
        before, now: The descriptions of the schedules of the checkpoint and of this run.
        step: Updates completed, for a schedule of another class, which may count something else.
    """
    count = state.get("last_epoch") if isinstance(state, Mapping) else None
    is_alike = before.get("class", now["class"]) == now["class"] and "num_bad_epochs" not in (state or {})
    return count if is_alike and isinstance(count, int) else step


def merged(own: Mapping[str, Any], saved: Mapping[str, Any], before: Any, now: Any) -> dict[str, Any]:
    """Return for each name the ``saved`` value if it was made alike, and else the ``own`` one.

    Args:
        before, now: The values as made, of the checkpoint and of this run.

    Example:
        >>> merged({"lr": 0.1, "eps": 2}, {"lr": 0.05, "eps": 1}, {"lr": 0.1, "eps": 1}, {"lr": 0.1, "eps": 2})
        {'lr': 0.05, 'eps': 2}
    """
    alike = {name for name in own if name in saved and name in before and before[name] == now.get(name)}
    return {name: saved[name] if name in alike else value for name, value in own.items()}


def rate_note(name: str, rate: float, step: int) -> str:
    """Return a sentence about a schedule that was made differently."""
    return f"the learning rate follows the new schedule ({name}): {rate:.6g} after {step} updates"


def class_note(before: Mapping[str, Any] | None, now: Mapping[str, Any], fits: bool) -> list[str]:
    """Return a sentence about the state of an optimizer of another class; none if the class is the same."""
    old = (before or {}).get("class", now["class"])
    if old == now["class"]:
        return []
    result = "fits and is kept" if fits else "does not fit and is dropped: the optimizer begins anew"
    return [f"the optimizer is {now['class']}, and that of the checkpoint is {old}; its state {result}"]


def fresh_note(names: list[str]) -> list[str]:
    """Return a sentence about parameters whose optimizer state begins anew; none without parameters."""
    return [f"the checkpoint has no optimizer state of {first_names(names)}, which begin anew"] if names else []


# -- descriptions -----------------------------------------------------------------------------------------------------


def described(value: Any, depth: int = 0) -> Any:
    """Return a value in JSON types, so that values that work alike are equal, in another process too.

    Example:
        >>> described({"betas": (0.9, 0.99), "max": float("inf")})
        {'betas': [0.9, 0.99], 'max': 'inf'}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth > MAX_DEPTH:
        return type(value).__name__
    if isinstance(value, Mapping):
        return {str(key): described(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item, depth + 1) for item in value]
    return _described_object(value, depth + 1)


def _described_object(value: Any, depth: int) -> Any:
    if isinstance(value, partial):
        return [described(part, depth) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [
            value.__qualname__,
            _digest(value.__code__),
            described(value.__defaults__, depth),
            described(cells, depth),
        ]
    if hasattr(value, "tolist") and hasattr(value, "shape"):  # an array or a tensor
        is_small = math.prod(value.shape) <= MAX_ITEMS
        return described(value.tolist(), depth) if is_small else [type(value).__name__, *value.shape]
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return getattr(value, "__qualname__", type(value).__name__)
    return [type(value).__name__, described(vars(value), depth)]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  (an empty cell raises)
    except ValueError:
        return False
    return True


def _digest(code: CodeType) -> str:
    constants = [_digest(item) if isinstance(item, CodeType) else repr(item) for item in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:16]
