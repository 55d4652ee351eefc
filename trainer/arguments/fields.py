"""Field declarations of TrainingArguments: default, help, rule, and parsing of text."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from trackside.callbacks._util.conversion import hints_of
from trackside.callbacks.errors import did_you_mean

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rule:
    """The allowed values of a field.

    Attributes:
        holds: Whether a value is allowed.
        allowed: The allowed values in words, which follow "a whole number, ".
        choices: The names to choose from, if that is the rule; the message suggests the nearest one.
        becomes: Converts an allowed value.
        elsewhere: Names that other tools have, each with what to use here.
    """

    holds: Callable[[Any], bool]
    allowed: str
    choices: tuple[str, ...] = ()
    becomes: Callable[[Any], Any] = lambda value: value
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Argument(dataclasses.Field[Any]):
    """A field that also has a rule. Its metadata holds only argparse options, since `HfArgumentParser` passes them on.

    Attributes:
        rule: The allowed values, beyond the type.
        reads: Parses a string into a value.
        kinds: The type that a value is converted to, if it differs from the annotation: command-line parsers refuse
            most unions as an annotation.
    """

    def __init__(
        self, like: dataclasses.Field[Any], rule: Rule | None, reads: Callable[[str], Any] | None, kinds: Any
    ) -> None:
        for name in dataclasses.Field.__slots__:
            setattr(self, name, getattr(like, name))
        self.rule: Rule | None = rule
        self.reads: Callable[[str], Any] | None = reads
        self.kinds: Any = kinds


def option(
    default: T, help: str, rule: Rule | None = None, reads: Callable[[str], Any] | None = None, kinds: Any = None
) -> T:
    """Declare a field of a dataclass.

    Args:
        default: Its default; a list or a dict is copied for each instance.
        help: Its description, for the command line.
        rule: See `Argument`; None is accepted if the type includes it.
        reads: See `Argument`.
        kinds: See `Argument`.
    """
    if isinstance(default, list | dict):
        made: Any = dataclasses.field(default_factory=lambda: copy.copy(default), metadata={"help": help})
    else:
        made = dataclasses.field(default=default, metadata={"help": help})
    return Argument(made, rule, reads, kinds)  # type: ignore[return-value]


def with_types(cls: type[T]) -> type[T]:
    """Give the fields of a dataclass their types instead of text, which not every command-line parser resolves."""
    hints = hints_of(cls)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        item.type = hints.get(item.name, item.type)
    return cls


def choice(default: T, help: str, among: Any, elsewhere: Mapping[str, str] | None = None) -> T:
    """Declare a field that holds one of several strings.

    Args:
        default: Its default.
        help: Its description, for the command line.
        among: An enum, to whose members values are converted, or a ``Literal``.
        elsewhere: See `Rule`.
    """
    is_enum = isinstance(among, type)
    names = tuple(str(item) for item in (among if is_enum else get_args(among)))
    becomes = among if is_enum else str
    rule = Rule(lambda value: value in names, f"one of {', '.join(names)}", names, becomes, elsewhere or {})
    return option(default, help, rule, kinds=str if default is not None else str | None)


def dict_option(help: str, reads: Callable[[str], dict[str, Any]]) -> Any:
    """Declare a field that holds a dict or None; ``reads`` parses text into a dict."""
    return option(None, help, reads=reads, kinds=dict[str, Any] | None)


# -- rules ------------------------------------------------------------------------------------------------------------


def at_least(low: float, meaning: str = "") -> Rule:
    """Allow numbers from ``low`` on; ``low`` itself may have a meaning of its own."""
    return Rule(lambda value: value >= low, f"at least {low}" + (f" ({low}: {meaning})" if meaning else ""))


def above(low: float) -> Rule:
    """Allow numbers greater than ``low``."""
    return Rule(lambda value: value > low, f"above {low}")


def between(low: float, high: float) -> Rule:
    """Allow numbers from ``low`` to ``high``, both included."""
    return Rule(lambda value: low <= value <= high, f"from {low} to {high}")


def from_up_to(low: float, high: float) -> Rule:
    """Allow numbers from ``low`` on that are less than ``high``."""
    return Rule(lambda value: low <= value < high, f"from {low} to less than {high}")


def some_of(*names: str) -> Rule:
    """Allow any of ``names``: a list of them, or a string with spaces between them."""
    allowed = f"any of {', '.join(names)}"
    return Rule(lambda value: set(value.split() if isinstance(value, str) else value) <= set(names), allowed, names)


def _is_interval(value: float) -> bool:
    return 0 < value < 1 or (value >= 1 and value == int(value))


MAX_STEPS = Rule(lambda value: value == -1 or value >= 1, "at least 1, or -1 for none")
NOT_EMPTY = Rule(bool, "not empty")
TOKENS = Rule(
    lambda value: value in ("no", "all", "non_padding", True, False),
    "no, all or non_padding",
    ("no", "all", "non_padding"),
    lambda value: {True: "all", False: "no"}.get(value, value),
)
INTERVAL = Rule(_is_interval, "at least 1, or a share of max_steps between 0 and 1")
WARMUP = Rule(lambda value: value == 0 or _is_interval(value), "at least 0, or a share of the run below 1")


# -- text -------------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """Return the words of ``text``, separated by commas or spaces; "none" alone returns an empty list.

    Example:
        >>> words("tensorboard, wandb"), words("none")
        (['tensorboard', 'wandb'], [])
    """
    found = text.replace(",", " ").split()
    return [] if found == ["none"] else found


def true_or_text(text: str) -> bool | str:
    """Return ``text``, or the bool that it spells."""
    return {"true": True, "false": False}.get(text.lower(), text)


def spaced(text: str) -> str:
    """Return the words of ``text`` with one space between them."""
    return " ".join(words(text))


def mapping(text: str) -> dict[str, Any]:
    """Return the JSON object in ``text``.

    Raises:
        ValueError: If it is not a JSON object.
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def mapping_or_file(text: str) -> dict[str, Any]:
    """Return the JSON object in ``text``, or in the file of that name.

    Raises:
        ValueError: If it is not a JSON object, or the file does not exist.
    """
    if text.lstrip().startswith("{"):
        return mapping(text)
    path = Path(text)
    if not path.is_file():
        raise ValueError("the file does not exist")
    return mapping(path.read_text(encoding="utf-8"))


def assignments(text: str) -> dict[str, Any]:
    """Return the names and values of ``a=1, b=(0.9, 0.95)``; a JSON object is also accepted.

    Raises:
        ValueError: If ``text`` cannot be parsed.

    Example:
        >>> assignments("betas=(0.9, 0.95), variant=fast")
        {'betas': [0.9, 0.95], 'variant': 'fast'}
    """
    if text.lstrip().startswith("{"):
        return mapping(text)
    try:
        call = ast.parse(f"dict({text.strip()})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(item.arg is None for item in call.keywords):
            raise ValueError
        return {str(item.arg): _literal(item.value) for item in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError("not of the form a=1, b=2") from None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id.lower(), node.id)
    value = ast.literal_eval(node)
    return list(value) if isinstance(value, tuple) else value


def refusal(rule: Rule, value: Any) -> str:
    """Return the values that ``rule`` allows, with the name nearest to the wrong ``value``."""
    if isinstance(value, str) and value in rule.elsewhere:
        return rule.elsewhere[value]
    given = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    wrong = next((str(name) for name in given if name not in rule.choices), "")
    near = did_you_mean(wrong, rule.choices) if wrong else ""
    return f"{rule.allowed}.{near}" if near else rule.allowed
