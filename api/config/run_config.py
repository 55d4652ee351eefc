"""A run as configuration files and a command line describe it, checked before anything is built."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.callbacks._util.imports import import_from, is_installed
from trackside.callbacks.config.callback_config import CallbackConfig, CallbackMap, parse_callback_map
from trackside.callbacks.errors import ArgumentError, ConfigError, MissingPackageError, TracksideError, did_you_mean
from trackside.config.coerce import Options, plain
from trackside.config.source import COMPONENTS, Source, Text, read_source

FRAMEWORKS = {"pytorch": "torch", "tensorflow": "tensorflow"}
"""The frameworks, and the module and extra that each needs."""

FUNCTIONS = ("loss_fn", "compute_metrics", "data_collator")
"""Components that are called during the run: a function is used as it is, with its init_args bound."""


@dataclass
class Component:
    """An object that a configuration describes by ``class_path`` and ``init_args``."""

    key: str
    target: Any
    init_args: dict[str, Any]
    where: str

    def build(self) -> Any:
        """Call the class or function; what goes wrong inside it carries a note that says which entry it was."""
        if self.key in FUNCTIONS and not inspect.isclass(self.target):
            return functools.partial(self.target, **self.init_args) if self.init_args else self.target
        try:
            return self.target(**self.init_args)
        except Exception as error:
            if isinstance(error, TypeError) and self._is_misfit(str(error)):  # with a base class, behind **kwargs
                raise ConfigError(f"{self.where}: {self.key}: {error}") from error
            error.add_note(f"raised while building {self.key} ({self.where})")
            raise

    def _is_misfit(self, message: str) -> bool:
        """Return whether Python says that an option is missing, or that one of ours is not there."""
        unexpected = "unexpected keyword argument" in message and any(repr(name) in message for name in self.init_args)
        return unexpected or ("missing" in message and "required" in message)


@dataclass
class RunConfig:
    """A checked configuration.

    Attributes:
        source: The values as written, and where.
        framework: "pytorch" or "tensorflow".
        args: The TrainingArguments (or TFTrainingArguments).
        callbacks: The map of callbacks, which knows where its entries were written.
        entries: The enabled callbacks, with their classes found and their options brought to the right type.
    """

    source: Source
    framework: str
    args: Any
    callbacks: CallbackMap
    entries: list[CallbackConfig] = field(default_factory=list)

    def components(self) -> dict[str, Component | dict[str, Component]]:
        """Import what the configuration names, and check its options. This imports the framework.

        Raises:
            ConfigError: If something cannot be imported, or an option is wrong.
        """
        return {
            key: self._component(key, self.source.values[key])
            for key in COMPONENTS
            if self.source.values.get(key) is not None
        }

    def _component(self, key: str, value: Any) -> Component | dict[str, Component]:
        several = key.endswith("_data") and isinstance(value, Mapping) and "class_path" not in value
        if not several:
            return _component(self.source, (key,), value)
        if not value or not all(isinstance(part, (Mapping, str)) for part in value.values()):
            raise self.source.error([key], "class_path and init_args are needed, or a map of names to such")
        return {name: _component(self.source, (key, name), part) for name, part in value.items()}


def load_config(
    files: Sequence[str | Path], overrides: Sequence[tuple[str, str]] = (), *, registered_only: bool = False
) -> RunConfig:
    """Read, merge and check configuration files and the command line. No framework is imported here.

    Args:
        files: YAML files; the later wins. Their folders, and the current one, are put on ``sys.path``, so that
            modules beside a file can be named in it.
        overrides: ``(key, text)`` pairs of the command line, which win over all files.
        registered_only: Refuse callbacks with a ``class_path``.

    Raises:
        ConfigError: With file and line, key, value, and the nearest name.
    """
    source = read_source(files, overrides)
    _make_importable([*(path.parent for path in source.files), Path()])
    framework = _framework(source)
    _check_arg_names(source, arguments_class(framework))
    callbacks, entries = read_callbacks(source, registered_only=registered_only)
    return RunConfig(source, framework, _arguments(source, arguments_class(framework), callbacks), callbacks, entries)


def read_callbacks(source: Source, *, registered_only: bool = False) -> tuple[CallbackMap, list[CallbackConfig]]:
    """Return the map of callbacks in ``source``, with every option brought to its type, and its enabled entries.

    Raises:
        ConfigError: See `load_config`.
    """
    callbacks = CallbackMap(plain(source.values["callbacks"]))
    callbacks.origins = {".".join(keys[1:]): place for keys, place in source.places.items() if keys[0] == "callbacks"}
    callbacks.registered_only = registered_only
    entries = parse_callback_map(callbacks)
    for entry in entries:
        _check_types(source, entry, callbacks)
    return callbacks, entries


def arguments_class(framework: str) -> Any:
    """Return the class of training arguments of a framework."""
    import trackside

    return trackside.TrainingArguments if framework == "pytorch" else trackside.TFTrainingArguments


def _make_importable(folders: Sequence[Path]) -> None:
    for folder in dict.fromkeys(str(path.resolve()) for path in reversed(folders)):
        if folder not in sys.path:
            sys.path.insert(0, folder)


def _framework(source: Source) -> str:
    framework = plain(source.values.get("framework", "pytorch"))
    if framework not in FRAMEWORKS:
        near = did_you_mean(str(framework), FRAMEWORKS)
        raise source.error(["framework"], f"{' or '.join(FRAMEWORKS)} is needed.{near}")
    if not is_installed(FRAMEWORKS[framework]):
        missing = MissingPackageError(FRAMEWORKS[framework], f"framework: {framework}", FRAMEWORKS[framework])
        raise ConfigError(f"{source.where('framework')}: {missing}")
    return str(framework)


def _check_arg_names(source: Source, cls: Any) -> None:
    known = [name for name in inspect.signature(cls).parameters if name != "callbacks"]
    for name in source.values["args"]:
        if name == "callbacks":
            raise source.error(["args", name], "callbacks has its place beside args, not in it")
        if name not in known:
            raise source.error(["args", name], f"there is no such argument.{did_you_mean(name, known)}")


def _arguments(source: Source, cls: Any, callbacks: CallbackMap) -> Any:
    """Make the training arguments; their own checks know types and what is allowed, and read text as well."""
    given = {name: _text_or_value(value) for name, value in source.values["args"].items()}
    try:
        args = cls(**given)
        args.callbacks = callbacks
        return args
    except ArgumentError as error:
        raise ConfigError(f"{source.where('args', error.field)}: args.{error}") from error
    except TracksideError as error:
        name = str(error).split("=")[0]
        raise ConfigError(f"{source.where('args', name)}: args.{error}") from error


def _text_or_value(value: Any) -> Any:
    return str(value) if isinstance(value, Text) and value.plain() is not None else plain(value)


def _check_types(source: Source, entry: CallbackConfig, callbacks: CallbackMap) -> None:
    """Bring the options of a callback to the types that its constructor declares, in ``entry`` and in ``callbacks``."""
    options = Options(entry.make)
    for name, keys in entry.written_at.items():
        above = (entry.name, *keys[:-1])
        entry.options[name] = options.checked_one(source, ("callbacks", *above, keys[-1]), name)
        target: Any = callbacks
        for key in above:
            target = target[key]
        target[keys[-1]] = entry.options[name]
    options.check_missing(source, ("callbacks", entry.name), entry.options)


def _component(source: Source, keys: tuple[str, ...], value: Any) -> Component:
    if isinstance(value, str):
        value = {"class_path": str(value)}
    if not isinstance(value, Mapping) or "class_path" not in value:
        raise source.error(keys, "class_path is needed, and init_args where it takes options")
    for key in value:
        if key not in ("class_path", "init_args"):
            near = did_you_mean(key, ("class_path", "init_args"))
            raise source.error((*keys, key), f"only class_path and init_args go here; options go into init_args.{near}")
    try:
        target = import_from(str(value["class_path"]))
    except ConfigError as error:
        raise source.error((*keys, "class_path"), str(error)) from error
    init_args = value.get("init_args") or {}
    if not isinstance(init_args, Mapping):
        raise source.error((*keys, "init_args"), "a map from options to values is needed")
    return Component(".".join(keys), target, _init_args(source, keys, target, init_args), source.where(*keys))


def _init_args(
    source: Source, keys: tuple[str, ...], target: Callable[..., Any], init_args: Mapping[str, Any]
) -> dict[str, Any]:
    if not callable(target):
        raise source.error((*keys, "class_path"), f"a class or a function is needed, not {type(target).__name__}")
    options = Options(target)
    if keys[0] in FUNCTIONS and not inspect.isclass(target):
        options.required = []  # the run itself will give the rest
    return options.checked(source, (*keys, "init_args"), init_args)
