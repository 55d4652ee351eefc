"""Arguments of a run beside their defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from trackside.callbacks._util.plain_data import plain
from trackside.config.run_config import FRAMEWORKS, arguments_class
from trackside.trainer.arguments.serialization import default_of


@cache
def defaults_of(framework: str) -> dict[str, Any]:
    """Return the default of each argument of a framework, as JSON values."""
    values = {item.name: default_of(item) for item in arguments_class(framework).fields()}
    return {name: as_json(plain(value, "arguments", rest=str)) for name, value in values.items()}


def framework_of(args: Mapping[str, Any]) -> str:
    """Return the framework whose arguments these are: the one that has the most of their names, and fewest others."""
    return min(FRAMEWORKS, key=lambda name: len(set(defaults_of(name)) ^ set(args)))


def split_by_default(args: Mapping[str, Any]) -> tuple[dict[str, tuple[Any, Any]], dict[str, Any]]:
    """Return the arguments that are not at their default, each with its value and the default; and the others.

    The default of an argument that this version does not know is None.
    """
    defaults = defaults_of(framework_of(args))
    changed, others = {}, {}
    for name, given in args.items():
        value, default = as_json(given), defaults.get(name)
        if value != default:
            changed[name] = (value, default)
        else:
            others[name] = value
    return changed, others


def as_json(value: Any) -> Any:
    """Return a value as JSON brings it back."""
    return json.loads(json.dumps(value, default=str))
