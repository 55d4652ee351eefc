"""Serialization of arguments to and from dictionaries and JSON; comparison, and copies with changes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from trackside.callbacks._util.plain_data import plain
from trackside.callbacks.errors import ArgumentError
from trackside.callbacks.secrets import masked, remember

from ..staging import RunFolder
from .elsewhere import nearest_name

T = TypeVar("T", bound="SerializableArguments")

# fields about the start of a run, without effect on its results
NOT_COMPARED = frozenset({"local_rank", "logging_dir", "overwrite_output_dir", "resume_from_checkpoint", "staging_dir"})


class SerializableArguments:
    """A dataclass whose fields are plain values. Other attributes (a device, a strategy) are not copied."""

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    else:  # type checkers take the signature from the dataclass

        def __new__(cls, *args: Any, **given: Any) -> SerializableArguments:
            """Raise ArgumentError with the nearest name if a keyword is not a field."""
            for name in given:
                if name not in cls.__dataclass_fields__ and not _takes(cls.__init__, name):
                    raise cls._unknown(name, given[name])
            return super().__new__(cls)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("__eq__", "__repr__"):  # dataclass() generates them if a class lacks them
            if name not in vars(cls):
                setattr(cls, name, getattr(cls, name))

    @classmethod
    def fields(cls) -> tuple[dataclasses.Field[Any], ...]:
        """Return the fields that the constructor takes, in their order."""
        return tuple(item for item in dataclasses.fields(cls) if item.init)

    def given(self, name: str) -> Any:
        """Return the value given for the field ``name``, even if reading the field returns a derived value."""
        return self.__dict__[name]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON types: enums as their values, and objects without a JSON type as their names.

        `from_dict` restores equal arguments from the result, but for secrets, which are masked (see
        `trackside.callbacks.secrets`); what came from the environment is its reference.
        """
        return {item.name: masked(_plain(self.written(item.name)), item.name) for item in self.fields()}

    def _note_references(self, references: Mapping[str, Any]) -> None:
        """Note which fields hold the values of the references to the environment that were given for them."""
        known = self.__dict__.setdefault("_references", {})
        known.update({name: (self.given(name), reference) for name, reference in references.items()})
        remember({item.name: self.given(item.name) for item in self.fields() if item.name != "callbacks"})

    def written(self, name: str) -> Any:
        """Return the value given for the field ``name``; for one that came from the environment, its reference."""
        value, (read, reference) = self.given(name), self.__dict__.get("_references", {}).get(name, (None, None))
        return reference if reference is not None and value == read else value

    def to_json_string(self) -> str:
        """Return `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
        """Build arguments from the result of `to_dict`, or from a part of it.

        Raises:
            ArgumentError: If a key is not a field; the message suggests the nearest one.
        """
        return cls(**values)

    @classmethod
    def _unknown(cls, name: str, value: Any) -> ArgumentError:
        near = nearest_name(name, [item.name for item in cls.fields()])
        return ArgumentError(name, value, f"this is not a field of {cls.__name__}.{near}")

    @classmethod
    def from_json(cls: type[T], source: str | Path) -> T:
        """Build arguments from JSON text or from the file of that name.

        Raises:
            ArgumentError: If it is not a JSON object, or a key is not a field.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ArgumentError("from_json", str(source), f"JSON only ({error})") from None
        if not isinstance(values, dict):
            raise ArgumentError("from_json", str(source), "a JSON object only")
        return cls.from_dict(values)

    def replace(self: T, **changes: Any) -> T:
        """Return a copy with ``changes``; fields inferred from others are inferred again."""
        inferred: dict[str, tuple[Any, Any]] = self.__dict__.get("_inferred", {})
        values = {item.name: copy.deepcopy(self.written(item.name)) for item in self.fields()}
        values |= {name: before for name, (before, after) in inferred.items() if values[name] == after}
        return type(self).from_dict(values | changes)

    def inferred_from(self, name: str) -> Any:
        """Return the value given for the field ``name``, also where another one was inferred from other fields."""
        before, after = self.__dict__.get("_inferred", {}).get(name, (None, None))
        return before if before is not None and self.given(name) == after else self.given(name)

    def is_default(self, name: str) -> bool:
        """Return whether the field ``name`` has its default."""
        return bool(self.given(name) == default_of(self.__dataclass_fields__[name]))

    def differences(self, old: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return, by field, the (old, new) values that differ from ``old``, a result of `to_dict`.

        Fields that either side lacks, and fields about the start of a run, are left out.
        """
        new = json.loads(self.to_json_string())
        old = masked(json.loads(json.dumps(dict(old), default=str)))
        names = [name for name in new if name in old and name not in NOT_COMPARED]
        return {name: (old[name], new[name]) for name in names if old[name] != new[name]}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SerializableArguments) and type(other) is type(self) and self.to_dict() == other.to_dict()
        )

    def __repr__(self) -> str:
        """Show the fields that differ from their defaults."""
        shown = [
            f"{item.name}={masked(_plain(self.written(item.name)), item.name)!r}"
            for item in self.fields()
            if self.given(item.name) != default_of(item)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        made = [name for name in self.__dict__ if isinstance(getattr(type(self), name, None), cached_property)]
        return {name: value for name, value in self.__dict__.items() if name not in made}


def _takes(function: Any, name: str) -> bool:
    """Return whether ``function``, such as the ``__init__`` of a user's own class, takes the keyword ``name``."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(item.kind is item.VAR_KEYWORD for item in parameters.values())


def default_of(item: dataclasses.Field[Any]) -> Any:
    """Return the default of a field."""
    made = item.default_factory
    return item.default if made is dataclasses.MISSING else made()


def _plain(value: Any) -> Any:
    if isinstance(value, RunFolder):
        return value.address
    return plain(value, "arguments", rest=lambda other: getattr(other, "__qualname__", str(other)))
