"""Other names that users know for a field of TrainingArguments."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from trackside.callbacks.errors import ArgumentError

from .coercion import KINDS, read_bool

if TYPE_CHECKING:
    from .base import BaseTrainingArguments


@dataclasses.dataclass(frozen=True)
class Alias:
    """Another name for a field. With ``replacement``, what to write instead, its use warns."""

    field: str
    replacement: str = ""
    reads: Callable[[Any], Any] = lambda value: value

    def warn(self, name: str) -> None:
        """Warn the caller of the constructor, if this name is deprecated."""
        if self.replacement:
            warnings.warn(f"{name} is deprecated; use {self.replacement} instead", FutureWarning, stacklevel=5)


ALIASES = {
    "evaluation_strategy": Alias("eval_strategy"),
    "evaluate_during_training": Alias(
        "eval_strategy", "eval_strategy='steps'", lambda value: "steps" if read_bool(value) else "no"
    ),
    "per_gpu_train_batch_size": Alias("per_device_train_batch_size", "per_device_train_batch_size"),
    "per_gpu_eval_batch_size": Alias("per_device_eval_batch_size", "per_device_eval_batch_size"),
    "use_cpu": Alias("no_cuda"),
    "tpu_metrics_debug": Alias(
        "debug", "debug='tpu_metrics_debug'", lambda value: "tpu_metrics_debug" if read_bool(value) else ""
    ),
}


def fold_aliases(args: BaseTrainingArguments, given: Mapping[str, Any]) -> None:
    """Move what was given under another name to its field.

    Raises:
        ArgumentError: If both were given and do not agree.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(args)}
    for name, value in given.items():
        if value is None:
            continue
        alias = ALIASES[name]
        alias.warn(name)
        try:
            wanted = alias.reads(value)
        except (TypeError, ValueError):
            raise ArgumentError(name, value, KINDS[bool][0]) from None
        current = getattr(args, alias.field)
        if current not in (defaults[alias.field], wanted):
            raise ArgumentError(name, value, f"it contradicts {alias.field}={current!r}; give one of the two")
        setattr(args, alias.field, wanted)


def _attribute(name: str) -> property:
    """Return a property that is another name for the attribute ``name``."""
    return property(attrgetter(name), lambda args, value: setattr(args, name, value))


# these are read by callbacks written for other trainers; the deprecated ones read as None, as they do there
READABLE = {name: _attribute(ALIASES[name].field) for name in ("evaluation_strategy", "use_cpu")}
