"""The commands `trackside plan` and `trackside callbacks`: what a configuration resolves to, without running it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from trackside.callbacks import registry
from trackside.callbacks._util.display import Report, table
from trackside.callbacks._util.options import Options
from trackside.callbacks.bus.attachment import Attachment
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.bus.introspection import location_of
from trackside.callbacks.config.attach import UnknownCallback, stand_in
from trackside.callbacks.config.callback_config import CallbackConfig
from trackside.callbacks.errors import TracksideError
from trackside.callbacks.secrets import masked
from trackside.callbacks.state import TrainerControl, TrainerState
from trackside.cli.report import block
from trackside.config.run_config import RunConfig
from trackside.config.source import COMPONENTS
from trackside.trainer.callback_setup import attach_from_arguments
from trackside.trainer.optim.lr_schedules import check_schedule_of
from trackside.trainer.staging import address_of

CHECKED_BY_FRAMEWORK = ("optim_args", "lr_scheduler_kwargs", "torch_compile_backend", "gradient_checkpointing_kwargs")
"""Arguments whose names are known when the framework is imported."""


def plan(config: RunConfig) -> Report:
    """Return a text with components, callbacks in the order of the calls, and arguments, each with its origin.

    Raises:
        ConfigError: If the configuration is wrong, as for training. What it names is imported, unless only registered
            classes may be, but nothing of it is called.
    """
    if not config.registered_only:
        config.components()
    check_schedule_of(config.args)
    if any(map(config.args.given, CHECKED_BY_FRAMEWORK)):
        importlib.import_module(f"trackside.trainer.{config.framework}.engine").check_choices(config.args)
    dispatcher = Dispatcher(config, config.args, TrainerState(), TrainerControl())
    attach_from_arguments(dispatcher, config.args, [], make=stand_in)
    blocks = [
        f"Framework: {config.framework}",
        block("Components", _components(config)),
        block("Callbacks, in the order of the calls", _callbacks(config, dispatcher.attachments.values())),
        block("Arguments", _arguments(config)),
    ]
    return Report("\n\n".join(blocks))


def _callbacks(config: RunConfig, attachments: Iterable[Attachment]) -> Iterator[tuple[str, ...]]:
    yield "name", "role", "on error", "hears", "options", "class", "origin"
    entries = {entry.name: ", ".join(_given(entry)) for entry in config.entries}
    for item in attachments:
        cls = type(item.callback)
        hears = ", ".join(sorted(item.on)) if item.on is not None else "all it has"
        hears += f", every {item.every} steps" if item.every > 1 else ""
        role = f"{item.role}, background" if item.background else item.role
        if isinstance(item.callback, UnknownCallback):
            role = hears = "known when it is called"
        options = entries.get(item.name, "")
        yield item.name, role, item.on_error, hears, options, f"{cls.__module__}.{cls.__qualname__}", item.origin


def _given(entry: CallbackConfig) -> Iterator[str]:
    """Yield the options of an entry as written, with their place if it is another file than that of the entry."""
    for option in entry.options:
        place, home = entry.location_of(option), entry.location
        is_elsewhere = place.rpartition(":")[0] != home.rpartition(":")[0]
        yield f"{entry.written_at[option][-1]}={entry.shown(option)!r}" + (f" ({place})" if is_elsewhere else "")


def _components(config: RunConfig) -> Iterator[tuple[str, ...]]:
    yield "key", "class", "origin"
    for key in COMPONENTS:
        if (value := config.source.values.get(key)) is not None:
            yield key, _class_path(value), config.source.where(key)


def _class_path(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_class_path, value))
    if not isinstance(value, Mapping):
        return str(value)
    if "class_path" in value:
        return str(value["class_path"])
    return ", ".join(f"{name}: {_class_path(part)}" for name, part in value.items())


def _arguments(config: RunConfig) -> Iterator[tuple[str, ...]]:
    """Yield every argument with its value and origin; those that were set come first."""
    yield "name", "value", "origin"
    written = config.source.values["args"]
    for name in sorted((item.name for item in config.args.fields()), key=lambda name: name not in written):
        value = masked(config.args.written(name), name)
        if value == config.args.given(name):
            value = address_of(config.args.output_dir) if name == "output_dir" else getattr(config.args, name)
        origin = config.source.where("args", name) if name in written else "default"
        if name != "callbacks":
            yield name, str(value.value if isinstance(value, Enum) else value), origin


def registered() -> str:
    """Return a table of the registered callbacks: name, package and version, options; one row for each claim."""
    rows = []
    for name, claims in sorted(registry.claims_by_name().items()):
        for claim in claims:
            several = f"claimed by {len(claims)} packages: {claim.value}; choose it as {claim.full_name}"
            options = _options(claim) if len(claims) == 1 else several
            rows.append((name, f"{claim.package} {claim.version}", options))
    return table([("name", "package", "options"), *rows])


def described(name: str) -> str:
    """Return what is known of a registered callback: origin, role, options and documentation; of each with the name.

    Raises:
        UnknownNameError: If it is not registered.
        CallbackError: If it cannot be imported.
    """
    claims = registry.claims_by_name()
    found = registry.named(name, claims) or [registry.find(name, claims)]
    return "\n\n".join(_described(claim, claim.full_name if len(found) > 1 else name) for claim in found)


def _described(claim: registry.Registration, name: str) -> str:
    cls = claim.load()
    background = ", in the background" if getattr(cls, "background", False) is True else ""
    rows = [
        ("class", f"{cls.__module__}.{cls.__qualname__}"),
        ("package", f"{claim.package} {claim.version}"),
        ("file", location_of(cls) if isinstance(cls, type) else "unknown"),
        ("role", f"{getattr(cls, 'role', 'control')}{background}"),
    ]
    options = [(_option(each, each.name.removeprefix(f"{claim.name}_")),) for each in Options(cls).parameters.values()]
    blocks = [block(name, rows), block("Options", options or [("none",)]), inspect.getdoc(cls) or "no documentation"]
    return "\n\n".join(blocks)


def _options(item: registry.Registration) -> str:
    try:
        options = Options(item.load()).parameters.values()
    except TracksideError as error:
        return str(error)
    return ", ".join(_option(option, option.name.removeprefix(f"{item.name}_")) for option in options) or "none"


def _option(option: inspect.Parameter, name: str) -> str:
    hint = option.annotation
    type_text = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    typed = name if hint is option.empty else f"{name}: {type_text}"
    return typed if option.default is option.empty else f"{typed} = {option.default!r}"
