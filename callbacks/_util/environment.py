"""References to the environment: ``${ENV:NAME}`` and ``${ENV:NAME,default}`` in the options of a configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ..errors import TracksideValueError
from ..secrets import REFERENCE, Secret, remember


def has_reference(value: Any) -> bool:
    """Return whether ``${ENV:...}`` is in ``value``."""
    if isinstance(value, Mapping):
        return any(map(has_reference, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_reference, value))
    return isinstance(value, str) and "${ENV:" in value


def is_set(value: Any) -> bool:
    """Return whether every reference in ``value`` can be resolved."""
    try:
        resolved(value)
    except TracksideValueError:
        return False
    return True


def resolved(value: Any, *, is_secret: bool = True) -> Any:
    """Return ``value`` with every ``${ENV:NAME}`` and ``${ENV:NAME,default}`` replaced by the variable.

    Args:
        value: Texts, and lists and maps of such.
        is_secret: Whether each text that is replaced becomes a `Secret`, which `scrub` finds in other texts too.

    Raises:
        TracksideValueError: If a variable is not set and has no default, or the text after ``${ENV:`` is not a name.
    """
    if isinstance(value, Mapping):
        return {key: resolved(item, is_secret=is_secret) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [resolved(item, is_secret=is_secret) for item in value]
    if not has_reference(value):
        return value
    if "${ENV:" in REFERENCE.sub("", value):
        raise TracksideValueError("${ENV:NAME} or ${ENV:NAME,default} is needed")
    found = REFERENCE.sub(_variable, value)
    if not is_secret:
        return found
    remember(Secret(found))
    return Secret(found)


def _variable(found: re.Match[str]) -> str:
    default: str | None = found["default"]
    value = os.environ.get(found["name"], default)
    if value is None:
        hint = f"set it, or give a default: ${{ENV:{found['name']},default}}"
        raise TracksideValueError(f"the environment variable {found['name']} is not set; {hint}")
    return value
