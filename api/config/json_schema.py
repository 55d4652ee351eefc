"""The JSON schema of a configuration, by which editors complete and check YAML (`trackside schema`)."""

from __future__ import annotations

import datetime
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from trackside.callbacks import registry
from trackside.callbacks._util.conversion import MAPS, SEQUENCES, choices_of, hints_of, kind_of, members_of
from trackside.callbacks._util.options import Options
from trackside.callbacks.bus.attachment import AttachOptions
from trackside.callbacks.config.callback_config import ATTACH_KEYS
from trackside.callbacks.errors import TracksideError
from trackside.config.run_config import FRAMEWORKS, arguments_class
from trackside.config.source import COMPONENTS, DATA

Schema = dict[str, Any]

SIMPLE: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    types.NoneType: "null",
    **dict.fromkeys((str, Path, os.PathLike, datetime.date, datetime.datetime, datetime.time), "string"),
    datetime.timedelta: "number",
}
"""Types of one value, each with its name in JSON schema."""


def schema(framework: str = "pytorch") -> Schema:
    """Return the JSON schema (draft 2020-12) of a configuration of ``framework``."""
    component = {"$ref": "#/$defs/component"}
    several: Schema = {"anyOf": [component, {"type": "object", "additionalProperties": component}]}
    properties: Schema = {"framework": {"enum": list(FRAMEWORKS), "default": "pytorch"}}
    properties["python_path"] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    properties |= {key: several if key in DATA else component for key in COMPONENTS}
    if framework == "tensorflow":
        properties["loss_fn"] = {"anyOf": [*several["anyOf"], {"type": "array", "items": component}]}
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
    """Return the schema of the training arguments, with types, defaults and descriptions."""
    hints = hints_of(cls)
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
    """Return the schema of a registered callback's entry; one that cannot be imported allows all options."""
    try:
        cls = registry.load(name)
    except (TracksideError, ImportError):
        return {"anyOf": [{"type": ["object", "boolean", "null"]}]}
    options, description = options_schema(cls, name), (inspect.getdoc(cls) or "").split("\n")[0]
    return {"description": description, "anyOf": [_entry(options), {"type": ["boolean", "null"]}]}


def options_schema(make: Callable[..., Any], name: str = "") -> Schema:
    """Return a schema for each option of a callback class, under its full name and its short one."""
    declared, options = Options(make), {}
    for key, parameter in declared.parameters.items():
        found = type_schema(declared.hints.get(key, Any))
        if isinstance(parameter.default, (bool, int, float, str)):
            found["default"] = _plain(parameter.default)
        options[key.removeprefix(f"{name}_")] = options[key] = found
    return options


def _entry(options: Mapping[str, Any]) -> Schema:
    attach: Schema = {
        "enabled": {"type": "boolean", "default": True},
        "class_path": {"type": "string"},
        "init_args": {"type": "object", "properties": dict(options)},
    }
    hints, declared = hints_of(AttachOptions), AttachOptions.__dataclass_fields__
    attach |= {name: {**type_schema(hints[name]), **declared[name].metadata} for name in ATTACH_KEYS}
    return {"type": "object", "properties": {**options, **attach}, "additionalProperties": not options}


def type_schema(hint: Any) -> Schema:
    """Return the schema of what a type hint allows; an empty one, which allows every value, where JSON has no type.

    Example:
        >>> type_schema(int | None), type_schema(list[str])
        ({'type': ['integer', 'null']}, {'type': 'array', 'items': {'type': 'string'}})
    """
    members = members_of(hint)
    if len(members) > 1:
        schemas = [type_schema(member) for member in members]
        if all(set(item) == {"type"} for item in schemas):
            return {"type": list(dict.fromkeys(item["type"] for item in schemas))}
        return {"anyOf": schemas} if all(schemas) else {}
    kind, parts = kind_of(members[0]), typing.get_args(members[0])
    if choices := choices_of(hint):
        return {"enum": [_plain(value) for value in choices.values()]}
    if kind in SIMPLE:
        return {"type": SIMPLE[kind]}
    if kind in SEQUENCES:
        return {"type": "array", **({"items": type_schema(parts[0])} if parts else {})}
    return {"type": "object"} if kind in MAPS else {}


def _plain(value: object) -> Any:
    return value.value if isinstance(value, Enum) else value
