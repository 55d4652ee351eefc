"""The JSON schema of a configuration, for editors that complete and check YAML: `trackside schema`."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from trackside.callbacks import registry
from trackside.callbacks.errors import TracksideError
from trackside.callbacks.events import EVENTS
from trackside.config import FRAMEWORKS, arguments_class
from trackside.config_source import COMPONENTS

Schema = dict[str, Any]

SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string", types.NoneType: "null"}


def schema(framework: str = "pytorch") -> Schema:
    """Return the JSON schema (draft 2020-12) of a configuration of ``framework``."""
    component = {"$ref": "#/$defs/component"}
    several: Schema = {"anyOf": [component, {"type": "object", "additionalProperties": component}]}
    properties: Schema = {"framework": {"enum": list(FRAMEWORKS), "default": "pytorch"}}
    properties |= {key: several if key.endswith("_data") else component for key in COMPONENTS}
    properties["args"] = _args(arguments_class(framework))
    properties["callbacks"] = {
        "type": "object",
        "properties": {name: _callback(name) for name in registry.registered()},
        "additionalProperties": {"anyOf": [_entry({}), {"type": ["boolean", "null"]}]},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "trackside configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": {"component": COMPONENT},
    }


COMPONENT: Schema = {
    "anyOf": [
        {"type": "string", "description": "class_path"},
        {
            "type": "object",
            "properties": {"class_path": {"type": "string"}, "init_args": {"type": "object"}},
            "required": ["class_path"],
            "additionalProperties": False,
        },
    ]
}


def _args(cls: Any) -> Schema:
    """Return the schema of the training arguments: types and defaults, and what each does."""
    hints = _hints(cls)
    properties = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name == "callbacks":
            continue
        item = cls.__dataclass_fields__[name]
        rule: Any = getattr(item, "rule", None)
        default = _plain(item.default)
        properties[name] = type_schema(hints.get(name, parameter.annotation))
        if getattr(rule, "choices", ()) and properties[name].get("type") == "string":
            properties[name] = {"enum": list(rule.choices)}
        if "help" in item.metadata:
            properties[name]["description"] = item.metadata["help"]
        if isinstance(default, (bool, int, float, str)):
            properties[name]["default"] = default
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _callback(name: str) -> Schema:
    """Return the schema of a registered callback's entry; one that cannot be imported may have any options."""
    try:
        cls = registry.load(name)
    except (TracksideError, ImportError):
        return {"anyOf": [{"type": ["object", "boolean", "null"]}]}
    options, description = options_schema(cls, name), (inspect.getdoc(cls) or "").split("\n")[0]
    return {"description": description, "anyOf": [_entry(options), {"type": ["boolean", "null"]}]}


def options_schema(make: Callable[..., Any], name: str = "") -> Schema:
    """Return a schema for each option of a callback class, under its short name where it has one."""
    hints = _hints(make.__init__ if inspect.isclass(make) else make)
    parameters = inspect.signature(make).parameters
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    options = {}
    for key, parameter in parameters.items():
        if parameter.kind in kinds:
            continue
        found = type_schema(hints.get(key, Any))
        if isinstance(parameter.default, (bool, int, float, str)):
            found["default"] = _plain(parameter.default)
        options[key.removeprefix(f"{name}_")] = found
        options[key] = found
    return options


def _entry(options: Mapping[str, Any]) -> Schema:
    names: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    placement: Schema = {
        "enabled": {"type": "boolean", "default": True},
        "class_path": {"type": "string"},
        "init_args": {"type": "object", "properties": dict(options)},
        "before": names,
        "after": names,
        "on": {"anyOf": [{"enum": list(EVENTS)}, {"type": "array", "items": {"enum": list(EVENTS)}}]},
        "every": {"type": "integer", "minimum": 1, "default": 1},
        "role": {"enum": ["control", "observer"]},
        "background": {"type": "boolean"},
        "timeout_s": {"type": "number", "exclusiveMinimum": 0},
        "on_error": {"enum": ["raise", "warn", "detach"]},
    }
    is_open = not options
    return {"type": "object", "properties": {**options, **placement}, "additionalProperties": is_open}


def type_schema(hint: Any) -> Schema:
    """Return the schema of what a type hint lets through; anything where JSON has no word for it.

    Example:
        >>> type_schema(int | None), type_schema(list[str])
        ({'type': ['integer', 'null']}, {'type': 'array', 'items': {'type': 'string'}})
    """
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if hint in SIMPLE:
        return {"type": SIMPLE[hint]}
    if origin is typing.Literal:
        return {"enum": list(members)}
    if origin in (typing.Union, types.UnionType):
        return _union([type_schema(member) for member in members])
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return {"enum": [item.value for item in hint]}
    if inspect.isclass(hint) and issubclass(hint, Path):
        return {"type": "string"}
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return {"type": "object"}
    if inspect.isclass(kind) and kind in (list, tuple, set, frozenset):
        return {"type": "array", **({"items": type_schema(members[0])} if members else {})}
    return {}


def _union(parts: list[Schema]) -> Schema:
    if not all(parts):
        return {}
    if all(set(part) == {"type"} for part in parts):
        return {"type": list(dict.fromkeys(part["type"] for part in parts))}
    return {"anyOf": parts}


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):
        return {}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value
