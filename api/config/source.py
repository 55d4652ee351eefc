"""Configuration sources: YAML files and the command line, merged in order, with the place of every key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from trackside.callbacks.errors import ConfigError, did_you_mean

Keys = tuple[str, ...]

COMMAND_LINE = "command line"

DATA = ("train_data", "eval_data", "test_data")

COMPONENTS = ("model", *DATA, "loss_fn", "compute_metrics", "data_collator", "processing_class")
"""Keys whose value is an object, named by ``class_path`` and ``init_args``."""

TOP_KEYS = ("framework", *COMPONENTS, "args", "callbacks")


class Text(str):
    """A value as typed on the command line; the type of the option or argument decides what it means."""

    __slots__ = ()

    def plain(self) -> Any:
        """Return what the text means as YAML, or the text itself where it is not YAML."""
        try:
            return _yaml().load(self)
        except YAMLError:
            return str(self)


def plain(value: object) -> Any:
    """Return ``value`` with every `Text` in it read as YAML."""
    if isinstance(value, Text):
        return value.plain()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


@dataclass
class Source:
    """Configuration values, each with the place where it was written.

    Attributes:
        values: The merged tree.
        places: ``file:line`` of every key, or "command line", by the path of keys that leads there.
        files: The files, in the order in which they were merged.
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Keys, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def where(self, *keys: str) -> str:
        """Return the place of ``keys``, or else of the nearest key above it."""
        found = (self.places[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in self.places)
        return next(found, ", ".join(map(str, self.files)) or COMMAND_LINE)

    def at(self, keys: Sequence[str]) -> Any:
        """Return the value at the end of ``keys``, or None."""
        value: Any = self.values
        for key in keys:
            has_keys = isinstance(value, Mapping)
            value = value[int(key)] if isinstance(value, list) else value.get(key) if has_keys else None
        return value

    def error(self, keys: Sequence[str], message: str) -> ConfigError:
        """Return an error that begins with place, key and value of ``keys``.

        Example:
            >>> source = Source({"args": {"seed": "x"}}, {("args", "seed"): "run.yaml:3"})
            >>> print(source.error(["args", "seed"], "a whole number is needed"))
            run.yaml:3: args.seed='x': a whole number is needed
        """
        value = self.at(keys)
        is_absent = value is None and tuple(keys) not in self.places
        shown = "" if isinstance(value, Mapping) or is_absent else f"={value!r}"
        return ConfigError(f"{self.where(*keys)}: {'.'.join(keys)}{shown}: {message}")

    def merge(self, later: Source, keys: Keys = ()) -> None:
        """Merge ``later`` below ``keys`` into this source; its values win, and its class drops the options of another.

        The place of a map that both have is the first one.
        """
        for key, new in later.at(keys).items():
            path, old = (*keys, key), self.at((*keys, key))
            has_both = isinstance(old, dict) and isinstance(new, dict)
            if has_both and new.get("class_path", old.get("class_path")) == old.get("class_path"):
                if path in later.places:
                    self.places.setdefault(path, later.places[path])
                self.merge(later, path)
            else:
                self.at(keys)[key] = new
                self.places |= {below: place for below, place in later.places.items() if below[: len(path)] == path}


def read_source(files: Sequence[str | Path], overrides: Sequence[tuple[str, str]] = ()) -> Source:
    """Read and merge configuration files in order, and the command line's ``(key, text)`` pairs after them.

    Raises:
        ConfigError: If a file is missing or is not valid YAML, a key is written twice, or a top-level key is unknown.
    """
    source = Source()
    for file in map(Path, files):
        source.merge(read_file(file))
        source.files.append(file)
    source.merge(from_command_line(overrides))
    return source


def read_file(path: Path) -> Source:
    """Read one file of YAML 1.2, of which JSON is a part.

    Raises:
        ConfigError: See `read_source`.
    """
    source = Source(files=[path])
    loader = _yaml()
    try:
        node = loader.compose(path.read_text(encoding="utf-8"))
        if node is not None:
            _note_places(node, (), path, source.places)
            source.values = loader.constructor.construct_document(node)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{place}: this is not valid YAML: {error.problem or error.context}") from None
    except (OSError, UnicodeError, YAMLError) as error:
        raise ConfigError(_unreadable(path, error)) from None
    if not isinstance(source.values, dict):
        raise ConfigError(f"{path}: a configuration is a map with the keys {', '.join(TOP_KEYS)}")
    _normalise(source)
    return source


def from_command_line(overrides: Iterable[tuple[str, str]]) -> Source:
    """Return a source of ``(key, text)`` pairs; keys outside `TOP_KEYS` are fields of ``args``."""
    source = Source()
    for key, text in overrides:
        parts = key.split(".")
        if parts[0] not in TOP_KEYS:
            near = did_you_mean(parts[0], TOP_KEYS) if len(parts) > 1 else ""
            if near:
                raise ConfigError(f"{COMMAND_LINE}: --{key} {text}: there is no such key.{near}")
            parts = ["args", parts[0].replace("-", "_"), *parts[1:]]
        level = source.values
        for depth, part in enumerate(parts[:-1], 1):
            source.places[tuple(parts[:depth])] = COMMAND_LINE
            if not isinstance(level.setdefault(part, {}), dict):
                raise ConfigError(f"{COMMAND_LINE}: --{key} {text}: {'.'.join(parts[:depth])} has a value already")
            level = level[part]
        level[parts[-1]] = Text(text)
        source.places[tuple(parts)] = COMMAND_LINE
    _normalise(source)
    return source


# -- YAML -------------------------------------------------------------------------------------------------------------


def _yaml() -> YAML:
    """Return a reader of YAML 1.2 for plain values: 3e-4 is a number, and on and off are text."""
    return YAML(typ="safe", pure=True)


def _note_places(node: Node, keys: Keys, path: Path, places: dict[Keys, str], above: tuple[Node, ...] = ()) -> None:
    """Note the line of every key below ``node``.

    Raises:
        ConfigError: If a key is written twice, is not a name, or has an alias of what holds it.
    """
    if node in above:
        raise ConfigError(f"{path}:{above[-1].start_mark.line + 1}: {'.'.join(keys)}: an alias of what it stands in")
    above = (*above, node)
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            _note_places(item, (*keys, str(index)), path, places, above)
    if not isinstance(node, MappingNode):
        return
    is_value = "init_args" in keys or (len(keys) > 1 and (keys[0] == "args" or isinstance(above[-2], SequenceNode)))
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key_node.tag != "tag:yaml.org,2002:str" and not is_value:
            raise ConfigError(f"{path}:{line}: {'.'.join((*keys, key))}: a name is needed as key")
        if key in lines:
            raise ConfigError(f"{path}:{line}: {'.'.join((*keys, key))} is written twice; first on line {lines[key]}")
        lines[key] = line
        places[(*keys, key)] = f"{path}:{line}"
        _note_places(value_node, (*keys, key), path, places, above)


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        folder = path.parent
        there = [str(folder / item.name) for item in folder.glob("*.y*ml")] if folder.is_dir() else []
        return f"{path}: there is no such file.{did_you_mean(str(path), there)}"
    reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
    return f"{path}: this file cannot be read: {reason}"


# -- short forms ------------------------------------------------------------------------------------------------------


def _normalise(source: Source) -> None:
    """Check the top-level keys, and expand the short forms of components and callbacks."""
    values = source.values
    for key, value in values.items():
        if key not in TOP_KEYS:
            near = did_you_mean(str(key), TOP_KEYS)
            raise source.error([key], f"there is no such key.{near} Keys: {', '.join(TOP_KEYS)}")
        if key in COMPONENTS and isinstance(value, str):
            values[key] = {"class_path": str(value)}
    for key in ("args", "callbacks"):
        found = values.get(key)
        found = found.plain() if isinstance(found, Text) else found
        values[key] = {} if found is None else found
        if not isinstance(values[key], dict):
            raise source.error([key], "a map from names to values is needed")
    for name, entry in values["callbacks"].items():
        entry = entry.plain() if isinstance(entry, Text) else entry
        if isinstance(entry, bool):
            source.places["callbacks", name, "enabled"] = source.where("callbacks", name)
            entry = {"enabled": entry}
        values["callbacks"][name] = {} if entry is None else entry
