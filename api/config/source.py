"""Configuration sources: YAML files and the command line, merged in order, with the place of every key."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import ConfigError, did_you_mean
from trackside.callbacks.secrets import masked, scrub
from trackside.config.command_text import NEEDS_VALUE, Switch, Text
from trackside.config.yaml_reader import COMMAND_LINE, SIZE_LIMIT, Keys, read_text, read_yaml
from trackside.trainer.arguments.elsewhere import FIELDS_ELSEWHERE
from trackside.trainer.staging import is_address

DATA = ("train_data", "eval_data", "test_data")

COMPONENTS = ("model", *DATA, "loss_fn", "compute_metrics", "data_collator", "processing_class")
"""Keys whose value is an object, named by ``class_path`` and ``init_args``."""

TOP_KEYS = ("framework", "python_path", *COMPONENTS, "args", "callbacks")


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
            if isinstance(value, list):
                value = value[int(key)] if key.isdecimal() else None
            else:
                value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def expanded(self, keys: Keys, *, only_maps: bool = False) -> Any:
        """Return the value at the end of ``keys``, after a text of the command line there was read as YAML.

        Args:
            only_maps: Leave a text as it is unless it means a map.
        """
        value = self.at(keys)
        if isinstance(value, Text):
            found = read_text(str(value), keys, self.places)
            if isinstance(found, dict) or not only_maps:
                self.set(keys, found)
                return found
        return value

    def error(self, keys: Sequence[str], message: str) -> ConfigError:
        """Return an error that begins with place, key and value of ``keys``.

        Example:
            >>> source = Source({"args": {"seed": "x"}}, {("args", "seed"): "run.yaml:3"})
            >>> print(source.error(["args", "seed"], "a whole number is needed"))
            run.yaml:3: args.seed='x': a whole number is needed
        """
        value = self.at(keys)
        is_absent = isinstance(value, Switch) or (value is None and tuple(keys) not in self.places)
        path = ".".join(keys)
        shown = "" if isinstance(value, Mapping) or is_absent else f"={masked(value, path)!r}"
        return ConfigError(scrub(f"{self.where(*keys)}: {path}{shown}: {message}"))

    def merge(self, later: Source, keys: Keys = (), *, is_same_source: bool = False) -> None:
        """Merge ``later`` below ``keys`` into this source; its values win, and its class drops the options of another.

        The place of a map that both have is the first one; all other places are in the order of writing.

        Args:
            is_same_source: Whether ``later`` may name the class of options that are here already.
        """
        for key in later.at(keys):
            path = (*keys, key)
            old, new = _as_maps(self, later, path)
            if isinstance(old, dict) and isinstance(new, dict):
                before = old.get("class_path", new.get("class_path") if is_same_source else None)
                if new.get("class_path", before) == before:
                    self.set(path, old)
                    if path in later.places:
                        self.places.setdefault(path, later.places[path])
                    self.merge(later, path, is_same_source=is_same_source)
                    continue
            if isinstance(old, (dict, list)):
                for below in self._below(path):
                    del self.places[below]
            self.set(path, new)
            for below in later._below(path) if isinstance(new, (dict, list)) else [path]:
                self.places.pop(below, None)
                self.places[below] = later.where(*below)
        if not keys:  # in the order of writing, since the last written of several names of an option wins
            for place in later.places:
                if place in self.places and not isinstance(later.at(place), (dict, list)):
                    self.places[place] = self.places.pop(place)

    def _below(self, keys: Keys) -> list[Keys]:
        return [place for place in self.places if place[: len(keys)] == keys]

    def set(self, keys: Keys, value: Any) -> None:
        """Set the value at the end of ``keys``."""
        above = self.at(keys[:-1])
        above[int(keys[-1]) if isinstance(above, list) else keys[-1]] = value


def _as_maps(earlier: Source, later: Source, keys: Keys) -> tuple[Any, Any]:
    """Return the values of two sources at ``keys``; where one is a map, a text that means a map is one too."""
    old, new = earlier.at(keys), later.at(keys)
    if isinstance(new, dict):
        old = earlier.expanded(keys, only_maps=True)
        if isinstance(old, str) and "init_args" in new and "class_path" not in new:
            old = {"class_path": str(old)}
    elif isinstance(old, dict):
        new = later.expanded(keys, only_maps=True)
    return old, new


def read_source(files: Sequence[str | Path], overrides: Sequence[tuple[str, str]] = ()) -> Source:
    """Read and merge configuration files in order, and the command line's ``(key, text)`` pairs after them.

    Raises:
        ConfigError: If a file is missing or is not valid YAML, a key is written twice, or a top-level key is unknown.
    """
    source = Source()
    for file in files:
        if is_address(file):
            raise ConfigError(f"{file}: a configuration is a local file; download it first")
        source.merge(read_file(Path(file)))
        source.files.append(Path(file))
    source.merge(from_command_line(overrides, source))
    return source


def read_file(path: Path) -> Source:
    """Read one file of YAML 1.2, of which JSON is a part.

    Raises:
        ConfigError: See `read_source`.
    """
    path = Path(os.path.expanduser(path))
    try:
        text = _text_of(path)
    except (OSError, ValueError) as error:
        raise ConfigError(_unreadable(path, error)) from None
    values, places = read_yaml(text, str(path))
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}:1: a configuration is a map with the keys {', '.join(TOP_KEYS)}")
    source = Source(values or {}, places, [path])
    _normalise(source)
    return source


def from_command_line(overrides: Iterable[tuple[str, str]], files: Source | None = None) -> Source:
    """Return a source of ``(key, text)`` pairs, the later of which win; keys outside `TOP_KEYS` are fields of ``args``.

    An option of a component may be given without ``init_args`` in its key, such as ``model.width``.

    Args:
        files: What the files say, which tells a dataset from a map of datasets.

    Raises:
        ConfigError: See `read_source`.
    """
    source = Source()
    for key, text in overrides:
        first, *rest = key.split(".")
        first = first.replace("-", "_")
        if first not in TOP_KEYS:
            near = did_you_mean(first, TOP_KEYS) if rest else ""
            if rest and first == "trainer":  # as in the command lines of other tools
                near = f" Arguments are --NAME or --args.NAME, such as --{FIELDS_ELSEWHERE.get(rest[-1], rest[-1])}."
            if near:
                raise ConfigError(f"{COMMAND_LINE}: {as_typed(key, text)}: this is not a key.{near}")
            first, rest = "args", [first, *rest]
        if first == "args" and rest:
            rest[0] = rest[0].replace("-", "_")
        if first in COMPONENTS and rest and rest[0] not in ("class_path", "init_args"):
            is_one = first not in DATA or any(made and made.at((first, "class_path")) for made in (files, source))
            rest = ["init_args", *rest] if is_one else rest
        if isinstance(text, Switch) and (not rest or rest[-1] in ("class_path", "init_args")):
            raise ConfigError(f"{COMMAND_LINE}: {as_typed(key, text)}: {NEEDS_VALUE}")
        value = text if isinstance(text, Text) else Text(text)
        source.merge(_one_value((first, *rest), value), is_same_source=True)
    _normalise(source)
    return source


def as_typed(key: str, text: str) -> str:
    """Return an option as it was typed, without the value of a secret."""
    return f"--{key}" if isinstance(text, Switch) else f"--{key} {masked(text, key)}"


def _one_value(keys: Keys, value: Text) -> Source:
    """Return a source that holds only ``value``, at the end of ``keys``."""
    made: Any = value
    for key in reversed(keys):
        made = {key: made}
    source = Source(made, {keys[:depth]: COMMAND_LINE for depth in range(1, len(keys) + 1)})
    _normalise(source)
    return source


def _text_of(path: Path) -> str:
    """Return the text of a file, one character above the limit at most; a pipe that nothing writes to is an error."""
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        first = file.read(1)  # None of a pipe: it has a writer, and no text yet
        if first == b"" and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            raise ValueError("nothing is written to this pipe")
        os.set_blocking(file.fileno(), True)
        written = (first or b"") + io.BufferedReader(file).read(4 * SIZE_LIMIT)  # 4 bytes a character at most
    return io.TextIOWrapper(io.BytesIO(written), encoding="utf-8").read(SIZE_LIMIT + 1)


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, IsADirectoryError):
        near = did_you_mean(str(path / "run.yaml"), map(str, path.glob("*.y*ml")))
        return f"{path}: this is a folder; a file is needed.{near}"
    if isinstance(error, FileNotFoundError):
        folder = path.parent
        there = [str(folder / item.name) for item in folder.glob("*.y*ml")] if folder.is_dir() else []
        return f"{path}: the file does not exist.{did_you_mean(str(path), there)}"
    reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
    return f"{path}: this file cannot be read: {reason}"


# -- short forms ------------------------------------------------------------------------------------------------------


def _normalise(source: Source) -> None:
    """Check the top-level keys, and expand the short forms of components and callbacks."""
    values = source.values
    for key in list(values):
        if key not in TOP_KEYS:
            near = did_you_mean(str(key), TOP_KEYS)
            raise source.error([key], f"this is not a key.{near} Keys: {', '.join(TOP_KEYS)}")
        if key in COMPONENTS:
            _normalise_component(source, (key,))
            if key in DATA and isinstance(values[key], dict) and "class_path" not in values[key]:
                for name in values[key]:
                    _normalise_component(source, (key, name))
    if "python_path" in values:
        values["python_path"] = _folders(source)
    for key in ("args", "callbacks"):
        found = source.expanded((key,))
        values[key] = {} if found is None else found
        if not isinstance(values[key], dict):
            raise source.error([key], "a map from names to values is needed")
    for name in values["callbacks"]:
        entry = source.expanded(("callbacks", name))
        if isinstance(entry, bool):
            source.places["callbacks", name, "enabled"] = source.where("callbacks", name)
            entry = {"enabled": entry}
        values["callbacks"][name] = {} if entry is None else entry
        source.expanded(("callbacks", name, "init_args"))


def _folders(source: Source) -> list[str]:
    """Return the folders of ``python_path``; a relative one is in the folder of its file."""
    found = source.expanded(("python_path",))
    folders = [str(found)] if isinstance(found, str) else found
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise source.error(["python_path"], "a folder or a list of folders is needed")
    base = source.files[0].parent if source.files else Path()
    return [str(Path(base, os.path.expanduser(folder)).resolve()) for folder in folders]


def _normalise_component(source: Source, keys: Keys) -> None:
    value = source.expanded(keys)
    if isinstance(value, str):
        source.set(keys, {"class_path": str(value)})
    source.expanded((*keys, "init_args"))
