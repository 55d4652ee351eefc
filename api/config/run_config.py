"""Run configuration: files and command line resolved to arguments, components and callbacks, and checked."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.callbacks._util.conversion import hints_of, members_of
from trackside.callbacks._util.imports import is_installed
from trackside.callbacks._util.options import Options
from trackside.callbacks.config.callback_config import (
    CallbackConfig,
    CallbackMap,
    is_disabled,
    overruled_names,
    parse_callback_map,
)
from trackside.callbacks.errors import (
    ArgumentError,
    ConfigError,
    MissingPackageError,
    TracksideError,
    did_you_mean,
)
from trackside.callbacks.registry import only_registered
from trackside.callbacks.secrets import Secret, scrub
from trackside.config.command_text import NEEDS_VALUE, as_written, needs_value, read_as_yaml, readings
from trackside.config.component import (
    FUNCTIONS,
    SPECIFICATION,
    FromEnvironment,
    built,
    checked_option,
    read_component,
)
from trackside.config.module_search import search_beside
from trackside.config.source import COMPONENTS, DATA, Source, read_source
from trackside.config.yaml_reader import Keys
from trackside.trainer.arguments.aliases import Alias
from trackside.trainer.arguments.elsewhere import nearest_name

logger: logging.Logger = logging.getLogger("trackside.config")

FRAMEWORKS = {"pytorch": "torch", "tensorflow": "tensorflow"}
"""Frameworks, each with the name of its module and of its extra."""


@dataclass
class RunConfig:
    """A checked configuration.

    Attributes:
        source: The values as written, and where.
        framework: "pytorch" or "tensorflow".
        args: The TrainingArguments (or TFTrainingArguments).
        callbacks: The map of callbacks, with the places of its entries.
        entries: The enabled callbacks, with their classes imported and their options converted.
        registered_only: Whether only registered classes may be imported.
    """

    source: Source
    framework: str
    args: Any
    callbacks: CallbackMap
    entries: list[CallbackConfig] = field(default_factory=list)
    registered_only: bool = False

    def components(self) -> dict[str, Any]:
        """Import the components that the configuration names, and check their options. This imports the framework.

        Raises:
            ConfigError: If something cannot be imported, or an option is wrong.
        """
        given = {key: self.source.values.get(key) for key in COMPONENTS}
        with only_registered(self.registered_only):
            return {key: self._component(key, value) for key, value in given.items() if value is not None}

    def _component(self, key: str, value: Any) -> Any:
        if key == "loss_fn" and self.framework == "tensorflow":
            return self._keras_loss((key,), value)
        several = key in DATA and isinstance(value, Mapping) and "class_path" not in value
        if not several:
            return read_component(self.source, (key,), value, is_called_later=key in FUNCTIONS)
        if not value or not all(isinstance(part, (Mapping, str)) for part in value.values()):
            raise self.source.error([key], "class_path and init_args are needed, or a map of names to such")
        return {name: read_component(self.source, (key, name), part) for name, part in value.items()}

    def _keras_loss(self, keys: Keys, value: Any) -> Any:
        """Return a loss as TFTrainer takes it: a name that Keras has for one, a component, or several by output."""
        if isinstance(value, list):
            return [self._keras_loss((*keys, str(index)), part) for index, part in enumerate(value)]
        if isinstance(value, Mapping) and value and not any(did_you_mean(key, SPECIFICATION) for key in value):
            return {name: self._keras_loss((*keys, name), part) for name, part in value.items()}
        name = value.get("class_path") if isinstance(value, Mapping) and not value.get("init_args") else value
        if value is None or not isinstance(name, str) or "." in name:
            return value if value is None else read_component(self.source, keys, value, is_called_later=True)
        from trackside.trainer.tensorflow.objective.outputs import checked

        try:
            checked(str(name))
        except ArgumentError as error:
            raise ConfigError(f"{self.source.where(*keys)}: {error}") from None
        return str(name)


def load_config(
    files: Sequence[str | Path], overrides: Sequence[tuple[str, str]] = (), *, registered_only: bool = False
) -> RunConfig:
    """Read, merge and check configuration files and the command line, without importing a framework.

    Args:
        files: YAML files; the later wins. Their folders and the current one are added at the end of ``sys.path``, so
            that a file can name the modules beside it.
        overrides: ``(key, text)`` pairs of the command line, which win over all files.
        registered_only: Import only what installed packages register: callbacks by name, and class paths that
            `trackside.callbacks.registry.components` knows.

    Raises:
        ConfigError: If anything is wrong; the message has file and line, key, value, and the nearest name.
    """
    source = read_source(files, overrides)
    if not registered_only:
        search_beside(source)
    framework = _framework(source)
    _check_arg_names(source, arguments_class(framework))
    _drop_overruled(source, arguments_class(framework))
    with only_registered(registered_only):
        callbacks, entries = read_callbacks(source, registered_only=registered_only)
    args = _arguments(source, arguments_class(framework), callbacks)
    return RunConfig(source, framework, args, callbacks, entries, registered_only)


def read_callbacks(source: Source, *, registered_only: bool = False) -> tuple[CallbackMap, list[CallbackConfig]]:
    """Return the map of callbacks in ``source``, with every option converted to its type, and its enabled entries.

    Raises:
        ConfigError: See `load_config`.
    """
    callbacks = CallbackMap(read_as_yaml(source.values["callbacks"]))
    callbacks.origins = {".".join(keys[1:]): place for keys, place in source.places.items() if keys[0] == "callbacks"}
    callbacks.registered_only = registered_only
    entries = parse_callback_map(callbacks)
    _tell_left_out(callbacks)
    for entry in entries:
        _check_types(source, entry, callbacks)
    return callbacks, entries


def _tell_left_out(callbacks: CallbackMap) -> None:
    """Warn of options that a later source gives to a callback that an earlier one leaves out."""
    places, written = callbacks.origins, list(callbacks.origins)
    files = {key: place.rpartition(":")[0] for key, place in places.items()}
    for switch in [f"{name}.enabled" for name in callbacks if is_disabled(callbacks[name])]:
        later = written[written.index(switch) + 1 :] if switch in written else []
        for key in (key for key in later if key.startswith(switch.removesuffix("enabled"))):
            if not files[key] or files[key] != files[switch]:
                advice = f"{places[switch]} leaves the callback out; to have it, set callbacks.{switch} to true"
                logger.warning("%s: callbacks.%s has no effect: %s", places[key], key, advice)


def arguments_class(framework: str) -> Any:
    """Return the class of training arguments of a framework."""
    import trackside

    return trackside.TrainingArguments if framework == "pytorch" else trackside.TFTrainingArguments


def _framework(source: Source) -> str:
    framework = read_as_yaml(source.values.get("framework", "pytorch"))
    if not isinstance(framework, str) or framework not in FRAMEWORKS:
        near = did_you_mean(str(framework), FRAMEWORKS)
        raise source.error(["framework"], f"{' or '.join(FRAMEWORKS)} is needed.{near}")
    if not is_installed(FRAMEWORKS[framework]):
        missing = MissingPackageError(FRAMEWORKS[framework], f"framework: {framework}", FRAMEWORKS[framework])
        raise ConfigError(f"{source.where('framework')}: {missing}")
    return framework


def _check_arg_names(source: Source, cls: Any) -> None:
    known = [name for name in inspect.signature(cls).parameters if name != "callbacks"]
    for name in source.values["args"]:
        if name == "callbacks":
            raise source.error(["args", name], "callbacks has its place beside args, not in it")
        if name not in known:
            raise source.error(["args", name], f"this is not an argument.{nearest_name(name, known)}")


def _drop_overruled(source: Source, cls: Any) -> None:
    """Drop arguments that a later source gives under another name.

    Raises:
        ConfigError: If one file gives an argument under two names.
    """
    given = source.values["args"]
    origins = {keys[1]: place for keys, place in source.places.items() if keys[0] == "args" and len(keys) == 2}
    names: dict[str, list[str]] = {}
    for name in given:
        alias = getattr(cls, name, None)
        names.setdefault(alias.field if isinstance(alias, Alias) else name, []).append(name)
    for several in names.values():
        for name in overruled_names(several, origins):
            del given[name]
        if len(kept := [name for name in several if name in given]) > 1:
            written = " and as ".join(map(repr, kept))
            raise source.error(["args", kept[-1]], f"the same argument is given as {written}; keep one")


def _arguments(source: Source, cls: Any, callbacks: CallbackMap) -> Any:
    """Return the training arguments, which check types and allowed values themselves."""
    hints = hints_of(cls)
    given = {}
    for name, value in source.values["args"].items():
        hint = hints.get(name)
        if needs_value(value, getattr(cls.__dataclass_fields__.get(name), "kinds", None) or hint):
            raise source.error(["args", name], NEEDS_VALUE)
        found = readings(value, hint)
        given[name] = found[-1] if str in members_of(hint) else found[0]  # a text is as it was typed: fields read it
    source.values["args"].update(given)
    try:
        args = cls(**given)
        args.callbacks = callbacks
        return args
    except ArgumentError as error:
        raise ConfigError(f"{source.where('args', error.field)}: args.{error}") from error
    except TracksideError as error:
        name = str(error).split("=")[0]
        raise ConfigError(scrub(f"{source.where('args', name)}: args.{error}")) from error


def _check_types(source: Source, entry: CallbackConfig, callbacks: CallbackMap) -> None:
    """Convert the options of a callback to the types that its constructor declares, in ``entry`` and ``callbacks``."""
    options = Options(entry.make)
    for name, (*above, key) in entry.written_at.items():
        keys = ("callbacks", entry.name, *above, key)
        checked = checked_option(source, keys, source.at(keys), options, name)
        written = isinstance(checked, FromEnvironment) or isinstance(source.at(keys), Secret)
        entry.options[name] = as_written(source.at(keys)) if written else built(checked)
        target: Any = callbacks[entry.name]
        (target[above[0]] if above else target)[key] = entry.options[name]
    for target in (callbacks[entry.name], source.at(("callbacks", entry.name))):
        for keys in entry.overruled:
            del (target[keys[0]] if keys[1:] else target)[keys[-1]]
