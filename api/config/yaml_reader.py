"""Reading YAML 1.2 as plain values: its core schema only, within limits, and with the line of every key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from trackside.callbacks.errors import ConfigError
from trackside.callbacks.secrets import Secret

Keys = tuple[str, ...]

COMMAND_LINE = "command line"

SIZE_LIMIT = 2**20
"""The most characters of a file."""

DEPTH_LIMIT = 100
"""The deepest nesting of maps and lists."""

VALUE_LIMIT = 100_000
"""The most values, each counted as often as aliases repeat it."""

KEYS_SHOWN = 8
"""The most keys of a path that an error shows."""

TAG = "tag:yaml.org,2002:"

TYPED = tuple(TAG + name for name in ("null", "bool", "int", "float"))
"""Tags of scalars that are not text."""

TEXTS = tuple(TAG + name for name in ("str", "timestamp", "value", "merge"))
"""Tags of scalars that are text here: YAML 1.2 knows no dates."""

SECRET = "!secret"
"""The tag that marks a text as a secret."""

MERGE = TAG + "merge"

PROBLEMS = {
    r"found character '\t'": "here is a tab; YAML is indented by spaces",
    "expected '<document start>'": "this does not go on from what stands before it",
    "expected <block end>": "this does not go on from the lines before it; is it indented as they are?",
}
"""What messages of the parser mean."""

PLAIN_KEYS = tuple(TAG + name for name in ("str", "bool", "int", "float"))
"""Tags of keys within a value; elsewhere a key is a name."""


def read_yaml(text: str, name: str) -> tuple[Any, dict[Keys, str]]:
    """Return the values of one document, and ``name:line`` of every key by the path of keys that leads there.

    An alias is the value of its anchor, not the same object, and a merge key gives the keys that the map itself lacks.

    Args:
        text: The document; JSON is YAML too.
        name: The name of the file.

    Raises:
        ConfigError: If it is not YAML, is larger or deeper than the limits, has several documents or another tag than
            those of the core schema, or if a key is written twice or cannot be a key; the message has file and line.
    """
    if len(text) > SIZE_LIMIT:
        raise ConfigError(f"{name}: a configuration has at most {SIZE_LIMIT} characters")
    try:
        node = _yaml().compose(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: this is not valid YAML: {error.reason}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: this is not valid YAML: {_problem(error)}") from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{name}: this is not valid YAML: {str(error).splitlines()[0]}") from None
    reader = _Reader(name)
    return None if node is None else reader.read(node, ()), reader.places


def read_text(text: str, keys: Keys = (), places: dict[Keys, str] | None = None) -> Any:
    """Return what a text of the command line means as YAML; a text stays as it was typed, with every ``#`` in it.

    Args:
        text: The text. What is not YAML is a text too.
        keys: The path of keys to which it belongs.
        places: Gets the place of every key of a map.

    Raises:
        ConfigError: If it is larger or deeper than the limits, or has a wrong key.

    Example:
        >>> read_text("1e-3"), read_text("fix for #12"), read_text("'5'"), read_text("{a: [1, on]}")
        (0.001, 'fix for #12', '5', {'a': [1, 'on']})
    """
    try:
        node = _yaml().compose(text)
    except (YAMLError, RecursionError, ValueError):
        return text
    if node is None:
        return None if not text.strip() else text
    is_part = text[: node.start_mark.index].strip() or text[node.end_mark.index :].strip()
    if is_part or (isinstance(node, ScalarNode) and node.style is None and node.tag not in TYPED):
        return text
    reader = _Reader("")
    value = reader.read(node, keys)
    if places is not None:
        places.update(reader.places)
    return value


def _yaml() -> YAML:
    reader = YAML(typ="safe", pure=True)
    reader.Composer = _Composer
    return reader


def _problem(error: MarkedYAMLError) -> str:
    """Return what is wrong, in the words of the file instead of the parser's."""
    said = str(error.problem or error.context)
    return next((words for part, words in PROBLEMS.items() if part in said), said)


class _Composer(Composer):
    """Composes no deeper than `DEPTH_LIMIT`, before Python's own limit ends it."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise MarkedYAMLError(None, None, _too_deep(), self.parser.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _too_deep() -> str:
    return f"it is nested deeper than {DEPTH_LIMIT} levels"


class _Reader:
    """The values of one document.

    Args:
        name: The name of the file; empty for the command line.

    Attributes:
        places: The place of every key so far.
    """

    def __init__(self, name: str) -> None:
        self.places: dict[Keys, str] = {}
        self._name = name
        self._constructor = _yaml().constructor
        self._count = 0

    def read(self, node: Node, keys: Keys, above: tuple[Node, ...] = ()) -> Any:
        """Return the value of ``node``, whose place is ``keys``, within the nodes ``above``."""
        self._check(node, keys, above)
        if isinstance(node, ScalarNode):
            return self._scalar(node, keys)
        if node.tag == TAG + "seq" and isinstance(node, SequenceNode):
            within = (*above, node)
            return [self.read(item, (*keys, str(number)), within) for number, item in enumerate(node.value)]
        if node.tag == TAG + "map" and isinstance(node, MappingNode):
            return self._map(node, keys, (*above, node))
        raise self._error(node, keys, f"the tag {node.tag} is not allowed")

    def _check(self, node: Node, keys: Keys, above: tuple[Node, ...]) -> None:
        """Check that ``node`` does not stand in itself, and that the document is not too large or too deep."""
        self._count += 1
        if self._count > VALUE_LIMIT:
            raise self._error(node, keys, f"with all its aliases the document has more than {VALUE_LIMIT} values")
        if len(above) > DEPTH_LIMIT:
            raise self._error(node, keys, _too_deep())
        if node in above:
            raise self._error(above[-1], keys, "an alias of what it stands in")

    def _map(self, node: MappingNode, keys: Keys, above: tuple[Node, ...]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key_node, value_node in self._pairs(node, keys, above):
            key = self._key(key_node, keys)
            path = (*keys, str(key_node.value))
            self.places[path] = self._place(key_node)
            made[key] = self.read(value_node, path, above)
        return made

    def _pairs(self, node: MappingNode, keys: Keys, above: tuple[Node, ...]) -> Iterator[tuple[ScalarNode, Node]]:
        """Yield the pairs of a map: first those of its merge keys, unless the map has the key itself."""
        lines: dict[str, int] = {}
        pairs: dict[str, tuple[ScalarNode, Node]] = {}
        for key_node, value_node in node.value:
            if key_node.tag != MERGE:
                self._key(key_node, keys)
                if (name := str(key_node.value)) in lines:
                    raise self._error(key_node, (*keys, name), f"is written twice; first on line {lines[name]}", "")
                lines[name] = key_node.start_mark.line + 1
                continue
            parts = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            for part in parts:
                if not isinstance(part, MappingNode):
                    raise self._error(key_node, (*keys, "<<"), "a map or a list of maps is needed")
                self._check(part, (*keys, "<<"), above)
                for inherited in self._pairs(part, keys, (*above, part)):
                    pairs.setdefault(str(inherited[0].value), inherited)
        own = {str(key_node.value): (key_node, value) for key_node, value in node.value if key_node.tag != MERGE}
        yield from {**pairs, **own}.values()

    def _scalar(self, node: ScalarNode, keys: Keys) -> Any:
        if node.tag in TEXTS:
            return str(node.value)
        if node.tag == SECRET:
            return Secret(node.value)
        if node.tag not in TYPED:
            raise self._error(node, keys, f"the tag {node.tag} is not allowed")
        try:
            return self._constructor.construct_object(node)
        except (ValueError, KeyError, YAMLError) as error:  # a number of more digits than Python reads; !!bool x
            if not self._name:
                return str(node.value)
            raise self._error(node, keys, f"this is not a value: {str(error).splitlines()[0]}") from None

    def _key(self, node: Node, keys: Keys) -> Any:
        """Return the value of a key: a name, or within a value also a number, true or false."""
        path = (*keys, str(node.value) if isinstance(node, ScalarNode) else "?")
        if isinstance(node, ScalarNode) and (node.tag in TEXTS or (node.tag in PLAIN_KEYS and _is_in_value(keys))):
            return self._scalar(node, path)
        needed = "text, a number, true or false" if _is_in_value(keys) else "a name"
        raise self._error(node, path, f"{needed} is needed as key")

    def _place(self, node: Node) -> str:
        return f"{self._name}:{node.start_mark.line + 1}" if self._name else COMMAND_LINE

    def _error(self, node: Node, keys: Keys, message: str, colon: str = ":") -> ConfigError:
        path = [*keys[:KEYS_SHOWN], "..."] if len(keys) > KEYS_SHOWN else keys
        where = f" {'.'.join(path)}{colon}" if keys else ""
        return ConfigError(f"{self._place(node)}:{where} {message}")


def _is_in_value(keys: Keys) -> bool:
    """Return whether a map at ``keys`` is the value of an option, whose keys need not be names."""
    names = {"args": 1, "callbacks": 2}.get(keys[0], len(keys)) if keys else 0
    return (len(keys) > names or "init_args" in keys) and keys[-1] != "init_args"
