"""How objects show themselves: texts that are short, never raise, hold no secrets and read nothing from a device."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from os import PathLike
from typing import Any, TypeVar

from ..secrets import masked, scrub
from .options import Options

LIMIT = 200
"""The most characters of a ``repr``."""

LONGEST = 60
"""The most characters of one value in it."""

PLAIN = (bool, int, float, str, type(None), tuple, list, dict)
"""Types whose values can be compared with a default without a look at a device."""

T = TypeVar("T")


def short_repr(function: Callable[[T], str]) -> Callable[[T], str]:
    """Return a method ``__repr__`` that never raises, masks secrets, and returns at most `LIMIT` characters."""

    @functools.wraps(function)
    def text(self: T) -> str:
        try:
            return _clipped(scrub(function(self)), LIMIT)
        except Exception:  # of an object that is only half built, or of what was set on it
            return f"<{type(self).__name__}>"

    return text


def called_with(name: str, options: Mapping[str, Any]) -> str:
    """Return a call in words of Python.

    Example:
        >>> called_with("Notify", {"every": 5, "token": "abc", "model": object(), "tags": list(range(9))})
        "Notify(every=5, token='***', model=<object>, tags=[9 items])"
    """
    return f"{name}({', '.join(f'{option}={shown(value, option)}' for option, value in options.items())})"


def shown(value: Any, name: str = "") -> str:
    """Return a value in a few characters: plain values as Python writes them, of all others only the class.

    Args:
        value: Any value; of a tensor, nothing is read.
        name: The name of the option or the field, which may be that of a secret.

    Example:
        >>> shown(0.1 + 0.2), shown({"a": 1}), shown("x" * 99)[-9:], shown([1, "b"]), shown(dict)
        ('0.3', '{1 item}', "xxxxx...'", "[1, 'b']", 'dict')
    """
    if isinstance(value, Mapping):
        return f"{{{counted(len(value), 'item')}}}"
    if isinstance(value, list | tuple | set | frozenset):
        if len(value) > 4 or not all(isinstance(item, str | int | float | None) for item in value):
            return f"[{counted(len(value), 'item')}]"
        return f"[{', '.join(shown(item, name) for item in value)}]"
    value = masked(value.value if isinstance(value, Enum) else value, name)
    if isinstance(value, bool | None):
        return repr(value)
    if isinstance(value, float):
        return f"{float(value):.6g}"
    if isinstance(value, int):
        return _clipped(int.__repr__(value), LONGEST)
    if isinstance(value, str | PathLike):
        return _clipped(repr(scrub(str(value))), LONGEST)
    if isinstance(value, type) or callable(value):
        return _clipped(str(getattr(value, "__qualname__", f"<{type(value).__name__}>")), LONGEST)
    return f"<{type(value).__name__}>"


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def first_names(names: Sequence[str], most: int = 5) -> str:
    """Return the first names as text, with the number of the others.

    Example:
        >>> first_names(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, what: str) -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "example"), counted(1600, "example")
        ('1 example', '1,600 examples')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def options_of(instance: object) -> dict[str, Any]:
    """Return the options of the constructor whose value is not the default, read from the attributes of that name.

    Those that the object keeps under another name, and not in a map ``options`` either, are left out.
    """
    attributes = vars(instance)
    kept = attributes.get("options")
    known = {**(kept if isinstance(kept, Mapping) else {}), **attributes}
    options = {name: item.default for name, item in Options(type(instance)).parameters.items() if name in known}
    return {name: known[name] for name, default in options.items() if not is_default(known[name], default)}


def is_default(value: Any, default: Any) -> bool:
    """Return whether a value is a default, or the empty map or list that a constructor makes of one."""
    if value is default or (isinstance(value, dict | list | tuple) and not value and not default):
        return True
    return isinstance(value, PLAIN) and isinstance(default, PLAIN) and bool(value == default)


# -- tables -----------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Return rows of text in aligned columns.

    Args:
        rows: Rows with the same number of texts.
        right: Indices of the columns to align at their right end.

    Example:
        >>> print(table([("name", "calls"), ("csv", "12")], right=[1]))
        name  calls
        csv      12
    """
    right = set(right)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    template = "  ".join(f"{{:{'>' if index in right else '<'}{width}}}" for index, width in enumerate(widths))
    return "\n".join(template.format(*row).rstrip() for row in rows)


def html_table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return rows as an HTML table for a notebook; secrets are masked.

    Example:
        >>> html_table([("loss", "<0.1")], head=("name", "value"))
        '<table><tr><th>name</th><th>value</th></tr><tr><td>loss</td><td>&lt;0.1</td></tr></table>'
    """
    lines = [_row("th", head)] if head else []
    return f"<table>{''.join([*lines, *(_row('td', row) for row in rows)])}</table>"


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(scrub(cell), quote=False)}</{tag}>' for cell in cells)}</tr>"


class Report(str):
    """A text of several lines that shows itself as it is, also at a prompt and in a notebook.

    Example:
        >>> Report("two\\nlines")
        two
        lines
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self, quote=False)}</pre>"
