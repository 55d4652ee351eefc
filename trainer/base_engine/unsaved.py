"""State of a run that no checkpoint holds: what training changes in objects of the user, of which a warning tells."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from trackside.callbacks._util.display import first_names

from ..checkpointing.own_generators import is_users

SMALL = 1_000
"""The most values of an array that are compared."""

SAMPLE = 100
"""The first values of each tensor of a model that are compared."""

TENSORS = 64
"""The most tensors of a model whose values are compared."""

DEPTH = 3
"""Datasets within datasets that are looked at."""

CLOCKS = (time.time, time.monotonic, time.perf_counter)

logger: logging.Logger = logging.getLogger("trackside.trainer")

Marks = Iterator[tuple[str, Any]]
"""What tells whether a value has changed, by the name of the value."""

MarkOf = Callable[[Any], Any]
"""Returns what tells whether a value of a framework has changed; None if it is not looked at."""


class StateOf(tuple[Any, ...]):
    """What tells whether the state of an object has changed, such as that of a model; it may be made within a run."""


class UnsavedState:
    """Numbers, arrays and tensors that are in no checkpoint: of a model, a trainer, its datasets and its callbacks.

    Lists and dicts are not looked at, since most of them are records; nor are true and false, and times of a clock.

    Args:
        marks: Returns the marks of what is looked at, as it is now.
        kept: Returns the names of callbacks with a state in the checkpoint.
    """

    def __init__(self, marks: Callable[[], Marks], kept: Callable[[], Mapping[str, Any]]) -> None:
        self._marks = marks
        self._kept = kept
        self._begun = [clock() for clock in CLOCKS]
        self._before: dict[str, Any] | None = dict(marks())

    def tell(self) -> None:
        """Tell, once, what has changed since this object was made."""
        if self._before is None:
            return
        kept = tuple(f"{OF_CALLBACKS}{name}." for name in self._kept())
        names = [name for name, mark in self._marks() if self._is_other(name, mark) and not name.startswith(kept)]
        if names:
            self._before = None
            logger.warning(
                "training has changed what no checkpoint holds, so that a resumed run may go on differently: %s. Keep "
                "it in the model as a buffer (register_buffer, add_weight) or as extra state (get_extra_state), in the "
                "state of the optimizer, or in a callback with state_dict()",
                first_names(names),
            )

    def _is_other(self, name: str, mark: Any) -> bool:
        assert self._before is not None
        if name not in self._before:
            return isinstance(mark, StateOf)
        if isinstance(mark, float) and any(
            begun <= mark <= clock() for begun, clock in zip(self._begun, CLOCKS, strict=True)
        ):
            return False
        return bool(mark != self._before[name])


OF_CALLBACKS = "callbacks."
"""Begin of the names of what callbacks have."""


def marks_of_holders(trainer: Any, mark_of: MarkOf) -> Marks:
    """Yield the marks of what a trainer, its datasets, its collator and its control callbacks have.

    So do those of the attributes that were added to its state, such as a callback's ``state.my_counter``.
    """
    yield from marks_in(attributes_of(trainer), "trainer.", mark_of)
    fields = vars(type(trainer.state)())
    for name, mark in marks_in(vars(trainer.state), "state.", mark_of):
        if name.removeprefix("state.") not in fields:
            yield name, StateOf([mark])
    for name in ("train_dataset", "data_collator"):
        yield from _marks_within(getattr(trainer, name, None), name, mark_of)
    for name, item in trainer.callback_report.items():
        if item.role == "control" and _is_own(item.callback):
            yield from marks_in(attributes_of(item.callback), f"{OF_CALLBACKS}{name}.", mark_of)


def marks_in(values: Mapping[str, Any], prefix: str, mark_of: MarkOf) -> Marks:
    """Yield the marks of the values of attributes."""
    for name, value in values.items():
        mark = _plain_mark(value)
        mark = mark_of(value) if mark is None else mark
        if mark is not None:
            yield prefix + name, mark


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, with the numbers of its classes that it has not replaced by its own."""
    cls: Any = type(value)
    return {**{name: getattr(cls, name) for name in _numbers_of(cls)}, **vars(value)}


@cache
def _numbers_of(cls: type) -> tuple[str, ...]:
    return tuple(name for each in cls.__mro__ for name, value in vars(each).items() if type(value) in (int, float))


def _plain_mark(value: Any) -> Any:
    """Return what tells whether a number or a small array has changed; None for other values."""
    if type(value) in (int, float):
        return value
    if isinstance(value, (np.number, np.ndarray)) and value.dtype.kind in "iufc" and value.size <= SMALL:
        return value.tobytes()
    return None


def _marks_within(value: Any, name: str, mark_of: MarkOf, depth: int = 0) -> Marks:
    """Yield the marks of what a dataset has, and the datasets in it."""
    if depth > DEPTH or not hasattr(value, "__dict__") or isinstance(value, type):
        return
    if _is_own(value):
        yield from marks_in(attributes_of(value), f"{name}.", mark_of)
    if not (_is_own(value) or type(value).__module__.startswith("torch.utils.data.")):
        return
    for part, found in vars(value).items():
        if hasattr(found, "__getitem__") or hasattr(found, "__iter__"):
            yield from _marks_within(found, f"{name}.{part}", mark_of, depth + 1)


def _is_own(value: Any) -> bool:
    """Return whether the class of an object is the user's, and not of a library."""
    kind = type(value)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    return is_users(kind.__module__) and "site-packages" not in file and hasattr(value, "__dict__")


def spread(tensors: Sequence[Any]) -> Sequence[Any]:
    """Return at most `TENSORS` of the tensors, spread over all."""
    return tensors[:: 1 + len(tensors) // TENSORS]
