"""JSON files of a checkpoint: strict reading, and checks against their schemas."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import describe

from .regular_files import read_regular
from .schemas import MANIFEST_SCHEMA, SCHEMAS, TYPES

LIMIT_BYTES = 1 << 30
"""Size of the largest JSON file that is read into memory."""

DEPTH = 200
"""Largest depth of nested lists and objects."""


class DocumentError(ValueError):
    """A JSON file has a value that is not allowed; the message is the rest of a sentence."""


def has_schema(name: str) -> bool:
    """Return whether a file of a checkpoint is a JSON file with a schema."""
    return _pattern(name) is not None


def read_document(folder: Path, name: str, *, links: bool = False) -> dict[str, Any]:
    """Return the content of a JSON file with a schema, after checking it.

    Args:
        links: See `regular_files.status_of`.

    Raises:
        DocumentError: If it is not JSON, or has a value that is not allowed; the message names file, key and value.
        OSError: If it cannot be read, or is not a regular file.
    """
    value = parse(read_regular(folder, name, limit=LIMIT_BYTES, links=links), name)
    pattern = _pattern(name)
    assert pattern is not None
    check(value, name, pattern)
    return dict(value)


def parse(content: bytes, name: str) -> Any:
    """Return the value of a JSON text without repeated keys and without extreme nesting.

    Raises:
        DocumentError: If it is something else.
    """
    try:
        value = json.loads(content, object_pairs_hook=_without_repeated)
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"has a damaged {name}: {describe(error)}") from error
    return value


def check(value: Any, name: str, schema: str = "manifest") -> None:
    """Raise DocumentError if ``value``, the content of the file ``name``, does not follow a schema of `SCHEMAS`."""
    error = next(_validator(schema).iter_errors(value), None)
    if error is not None:
        raise DocumentError(f"has a value in {name} that is not allowed: {_sentence(error)}")


def _sentence(error: Any) -> str:
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    if error.validator == "required":
        missing = next(part for part in error.validator_value if part not in error.instance)
        return f"{key or 'the file'} lacks {missing!r}"
    text = repr(error.instance)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return f"{key or 'the file'} is {text}; allowed is {error.schema.get('description', error.message)}"


@cache
def _validator(schema: str) -> Any:
    import jsonschema

    checker = jsonschema.Draft202012Validator.TYPE_CHECKER
    for name, test in TYPES.items():
        checker = checker.redefine(name, lambda _, value, test=test: test(value))
    # the schema is not checked against the meta-schema, which does not know all of the types
    strict = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=checker)
    return strict(MANIFEST_SCHEMA if schema == "manifest" else SCHEMAS[schema])


def _pattern(name: str) -> str | None:
    return next((pattern for pattern in SCHEMAS if fnmatchcase(name, pattern)), None)


def _without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [part for item in level if isinstance(item, dict | list) for part in _parts(item)]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH} levels deep")


def _parts(item: dict[str, Any] | list[Any]) -> Any:
    return item.values() if isinstance(item, dict) else item
