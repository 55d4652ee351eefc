"""Groups of arguments: the sections in which their classes declare them, for help and completion."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

SECTION = re.compile(r"    # -- (.+?) -+$")
FIELD = re.compile(r"    (\w+): ")


def groups_of(cls: Any) -> dict[str, list[dataclasses.Field[Any]]]:
    """Return the fields of a class of arguments by the title of their section, in their order.

    Fields whose class has no sections, or no source, are under "more".
    """
    titles: dict[str, str] = {}
    for part in cls.__mro__:
        title = "more"
        for line in _source_of(part):
            if section := SECTION.match(line):
                title = section.group(1)
            elif (field := FIELD.match(line)) and field.group(1) not in titles:
                titles[field.group(1)] = title
    groups: dict[str, list[dataclasses.Field[Any]]] = {title: [] for title in reversed(dict.fromkeys(titles.values()))}
    for item in cls.fields():
        groups.setdefault(titles.get(item.name, "more"), []).append(item)
    order = list(dict.fromkeys(titles.get(item.name, "more") for item in cls.fields()))
    return {title: groups[title] for title in order}


def _source_of(cls: type) -> list[str]:
    if not dataclasses.is_dataclass(cls):
        return []
    try:
        return inspect.getsource(cls).splitlines()
    except (OSError, TypeError):
        return []
