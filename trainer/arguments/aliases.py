"""Aliases: other names for a field of TrainingArguments."""

from __future__ import annotations

import dataclasses
from typing import Any

from trackside.callbacks._util.conversion import in_words, read_bool
from trackside.callbacks._util.deprecation import Deprecation
from trackside.callbacks.errors import ArgumentError

from .serialization import SerializableArguments, default_of


def other_name(help: str) -> Any:
    """Declare another name of a field: a keyword of the constructor, an option of the command line, an attribute."""
    return dataclasses.field(default=None, repr=False, compare=False, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Alias:
    """The attribute that reads and sets a field under another name.

    Attributes:
        name: The other name.
        field: The name of the field.
        deprecation: What setting it warns of, if it is deprecated.
        value: Value of the field when this attribute is true, if it is a switch.
    """

    name: str
    field: str
    deprecation: Deprecation | None = None
    value: str | None = None

    def __get__(self, args: SerializableArguments | None, owner: type | None = None) -> Any:
        return self if args is None else self._shown(getattr(args, self.field))

    def __set__(self, args: SerializableArguments, value: Any) -> None:
        current, default = getattr(args, self.field), default_of(args.__dataclass_fields__[self.field])
        is_new = "_inferred" not in vars(args)
        if value is None or (is_new and value in (self._shown(current), self._shown(default))):
            return  # dataclasses.replace and command-line parsers pass back the value that they read
        if self.deprecation is not None:
            self.deprecation.warn(stacklevel=2 if is_new else 1)
        wanted = self._read(value, default)
        if is_new and current != default:
            raise ArgumentError(self.name, value, f"it contradicts {self.field}={current!r}; give one of the two")
        setattr(args, self.field, wanted)

    def _shown(self, current: Any) -> Any:
        return current if self.value is None else self.value in current

    def _read(self, value: Any, default: Any) -> Any:
        if self.value is None:
            return value
        try:
            return self.value if read_bool(value) else default
        except TypeError:
            raise ArgumentError(self.name, value, in_words(bool)) from None


def _deprecated(name: str, field: str, instead: str, value: str | None = None) -> Alias:
    """Return an alias for scripts that were written for early versions of transformers."""
    deprecation = Deprecation(name=name, instead=instead, since="0.1.0", removed_in="1.0.0")
    return Alias(name, field, deprecation, value)


ALIASES = (
    Alias("evaluation_strategy", "eval_strategy"),
    _deprecated("evaluate_during_training", "eval_strategy", "eval_strategy='steps'", "steps"),
    _deprecated("per_gpu_train_batch_size", "per_device_train_batch_size", "per_device_train_batch_size"),
    _deprecated("per_gpu_eval_batch_size", "per_device_eval_batch_size", "per_device_eval_batch_size"),
    Alias("activation_checkpointing", "gradient_checkpointing"),
    Alias("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"),
    _deprecated("adafactor", "optim", "optim='adafactor'", "adafactor"),
    _deprecated("include_inputs_for_metrics", "include_for_metrics", "include_for_metrics=['inputs']", "inputs"),
    Alias("use_cpu", "no_cuda"),
    _deprecated("tpu_metrics_debug", "debug", "debug='tpu_metrics_debug'", "tpu_metrics_debug"),
)
