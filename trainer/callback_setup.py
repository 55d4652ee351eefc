"""Callback set-up: the callbacks that a new trainer attaches, and the keyword arguments that they get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.builtin.printer import PrinterCallback
from trackside.callbacks.builtin.progress import ProgressCallback
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.config.attach import attach_from_map
from trackside.callbacks.config.callback_config import CallbackConfig, CallbackMap
from trackside.callbacks.errors import ArgumentError, CallbackError, did_you_mean
from trackside.callbacks.registry import claims_by_name, load, named, registered

from .distributed.collectives import Collectives

OWN_TRACKERS = "trackside.integrations."
"""Package of the trackers that ``report_to: all`` selects; trackers of other packages are selected by name."""

DISPLAYS = ("progress", "printer", "rich_progress", "notebook")
"""Names of the callbacks that display a run; if none is attached, the trainer attaches one."""


def attach_from_arguments(
    dispatcher: Dispatcher, args: Any, callbacks: Sequence[Any], make: Callable[[CallbackConfig], Any] | None = None
) -> None:
    """Attach the given list, a progress bar if there is none, and the callbacks that the arguments name.

    Args:
        dispatcher: The dispatcher to attach them to.
        args: The training arguments.
        callbacks: The given list.
        make: See `trackside.callbacks.config.attach.attach_from_map`.
    """
    for callback in callbacks:
        dispatcher.attach(callback)
    reported = CallbackMap({name: None for name in trackers(args.report_to) if name not in args.callbacks})
    reported.origins = dict.fromkeys(reported, "report_to")
    _check_reported(args.report_to, reported)
    there = {*dispatcher.attachments, *reported, *args.callbacks}
    if not there.intersection(DISPLAYS):  # before the configured callbacks, whose before and after options may name it
        dispatcher.attach(PrinterCallback if args.disable_tqdm else ProgressCallback, origin="default")
    attach_from_map(dispatcher, reported, make)
    attach_from_map(dispatcher, args.callbacks, make)


def update_context(trainer: Any, dispatcher: Dispatcher, **changed: Any) -> None:
    """Update the keyword arguments of callbacks: the trainer's objects, and those ``changed``."""
    dispatcher.context.update(
        model=trainer.model,
        optimizer=trainer.optimizer,
        lr_scheduler=trainer.lr_scheduler,
        processing_class=trainer.processing_class,
        tokenizer=trainer.processing_class,
        **changed,
    )


def check_attached_everywhere(dispatcher: Dispatcher, collectives: Collectives) -> None:
    """Check that every callback which exchanges values between processes is attached on all of them.

    Raises:
        CallbackError: On every process, if one process lacks such a callback; the others would wait for it.
    """
    own = {
        name
        for name, item in dispatcher.attachments.items()
        if item.detached_after is None and getattr(item.callback, "is_collective", False)
    }
    everywhere: list[set[str]] = collectives.gather("the callbacks that exchange values", own)
    for name in sorted(set().union(*everywhere)):
        without = [str(rank) for rank, names in enumerate(everywhere) if name not in names]
        if without:
            raise CallbackError(
                f"the callback {name!r} talks to that of every other process, but is not attached on rank "
                f"{', '.join(without)}; attach it on all"
            )


def trackers(report_to: Sequence[str] | str) -> list[str]:
    """Return the names in ``report_to``; "all" stands for every tracker whose package is installed.

    Example:
        >>> trackers(["tensorboard"]), trackers("none")
        (['tensorboard'], [])
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    if "all" in names:
        integrations = [name for name, found in registered().items() if found.value.startswith(OWN_TRACKERS)]
        names = [name for name in names if name != "all"]
        return names + [name for name in integrations if name not in names and _is_installed(name)]
    return [name for name in names if name != "none"]


def _check_reported(report_to: Sequence[str] | str, names: Iterable[str]) -> None:
    known = claims_by_name()
    for name in names:
        if not named(name, known):
            near = did_you_mean(name, [*known, "all", "none"])
            message = f"names of callbacks are needed, or all, or none; none is named {name!r}.{near}"
            raise ArgumentError("report_to", report_to, message)


def _is_installed(name: str) -> bool:
    package = getattr(load(name), "package", "")  # the module that a tracker needs; other integrations have none
    return bool(package) and is_installed(package)
