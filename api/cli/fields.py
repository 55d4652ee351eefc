"""The arguments of a run as options: grouped, with types, defaults and choices, for the help of `trackside train`."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trackside.callbacks._util.conversion import hints_of, members_of
from trackside.cli.command_line import is_file
from trackside.config.run_config import FRAMEWORKS, arguments_class
from trackside.trainer.arguments.groups import groups_of
from trackside.trainer.arguments.serialization import default_of

KINDS = {bool: "true|false", int: "N", float: "X", str: "TEXT"}
"""What stands for a value, by its type."""

COLUMN = 34
"""Where the description of an option begins."""


def fields_help(words: Sequence[str]) -> str:
    """Return all arguments of the framework that the first configuration file among ``words`` names."""
    framework = framework_of(words)
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    blocks = [f"Arguments ({framework}):"]
    cls = arguments_class(framework)
    for title, items in groups_of(cls).items():
        blocks.append(f"\n{title}:")
        blocks += [_entry(item, cls, width) for item in items if "help" in item.metadata]
    return "\n".join(blocks)


def framework_of(words: Sequence[str]) -> str:
    """Return the framework of the first configuration file among ``words``; "pytorch" if none can be read."""
    from trackside.callbacks.errors import ConfigError
    from trackside.config.source import read_source

    for word in words:
        if is_file(word) and Path(word).is_file():
            try:
                named = read_source([word]).values.get("framework", "pytorch")
            except ConfigError:
                break
            return str(named) if str(named) in FRAMEWORKS else "pytorch"
    return "pytorch"


def choices_of(item: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the names among which an argument chooses; empty for others."""
    rule = getattr(item, "rule", None)
    return tuple(rule.choices) if rule is not None else ()


def value_of(item: dataclasses.Field[Any], cls: Any) -> str:
    """Return what stands for the value of an argument."""
    if choices_of(item):
        return "NAME"
    kinds = getattr(item, "kinds", None) or hints_of(cls).get(item.name)
    found = [KINDS[kind] for kind in members_of(kinds) if kind in KINDS]
    if bool in members_of(kinds) and str in members_of(kinds):
        return "true|TEXT"
    return "X" if "X" in found else found[0] if found else "JSON" if "dict" in str(kinds) else "LIST"


def _entry(item: dataclasses.Field[Any], cls: Any, width: int) -> str:
    head, help, choices = f"  --{item.name} {value_of(item, cls)}", item.metadata["help"], choices_of(item)
    if choices and not all(name in help for name in choices):
        help += f" One of {', '.join(choices)}."
    default = default_of(item)
    if default not in (None, "", [], {}):
        help += f" Default: {str(default).lower() if isinstance(default, bool) else default}."
    lines = textwrap.wrap(help, width - COLUMN) or [""]
    first = f"{head:<{COLUMN - 1}} {lines[0]}" if len(head) < COLUMN else f"{head}\n{'':<{COLUMN}}{lines[0]}"
    return "\n".join([first, *(f"{'':<{COLUMN}}{line}" for line in lines[1:])])
