"""How callbacks come to a trainer: in Python, from the arguments, or as plain functions on a signal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.builtin.default_flow import DefaultFlowCallback
from trackside.callbacks.bus.attachment import Attachment
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.config.attach import attach_from_map
from trackside.callbacks.errors import ArgumentError, CallbackError, did_you_mean
from trackside.callbacks.events import signal_named
from trackside.callbacks.registry import claims_by_name, load, registered

Listener = TypeVar("Listener", bound=Callable[..., Any])

OWN_TRACKERS = "trackside.integrations."
"""Where the trackers are that ``report_to: all`` stands for; those of other packages are asked for by name."""

DISPLAYS = ("progress", "printer", "rich_progress", "notebook")
"""Names of the callbacks that show a run to who started it; without any of them, the trainer attaches one."""


class Attaching:
    """The part of a trainer that callbacks are attached to."""

    args: Any
    dispatcher: Dispatcher
    model: Any
    optimizer: Any
    lr_scheduler: Any
    processing_class: Any

    def _attach_callbacks(self, callbacks: Sequence[Any]) -> None:
        """Attach flow control, the given list, a progress bar if none is there, and what the arguments name."""
        self.add_callback(DefaultFlowCallback(), origin="default")
        for callback in callbacks:
            self.add_callback(callback)
        reported = {name: None for name in trackers(self.args.report_to) if name not in self.args.callbacks}
        _check_reported(self.args.report_to, reported)
        named = {*self.dispatcher.attachments, *reported, *self.args.callbacks}
        if not named.intersection(DISPLAYS):  # before the maps, whose before and after may name it
            self.add_callback(_default_display(self.args.disable_tqdm), origin="default")
        attach_from_map(self.dispatcher, reported, origins=dict.fromkeys(reported, "report_to"))
        attach_from_map(self.dispatcher, self.args.callbacks)

    def add_callback(self, callback: Any, **placement: Any) -> Attachment:
        """Attach a callback, as instance or class.

        Args:
            callback: Any object with ``on_*`` methods.
            placement: ``name``, ``role``, ``on_error``, ``before``, ``after``, ``on`` and ``every``, see
                `trackside.callbacks.bus.dispatcher.Dispatcher.attach`.
        """
        return self.dispatcher.attach(callback, **placement)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback, given as class, instance or name, and return it; None if it is not there."""
        return self.dispatcher.remove(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, given as class, instance or name."""
        self.dispatcher.remove(callback)

    def on(self, event: str, *, every: int = 1) -> Callable[[Listener], Listener]:
        """Return a decorator that connects a plain function to an event of this trainer.

        Args:
            event: Name of the event.
            every: Hear only the steps that are multiples of this.

        Raises:
            UnknownNameError: If there is no such event.
        """
        signal = signal_named(event)

        def connect(listener: Listener) -> Listener:
            return signal.connect(listener, sender=self, every=every)

        return connect

    @property
    def callback_report(self) -> dict[str, Attachment]:
        """What each callback has cost and how often it failed, by name, in the order in which they are called."""
        return self.dispatcher.attachments

    def _update_context(self, **changed: Any) -> None:
        """Keep what callbacks get by keyword up to date."""
        context = self.dispatcher.context
        context.update(
            model=self.model,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            processing_class=self.processing_class,
            tokenizer=self.processing_class,
        )
        context.setdefault("train_dataloader", None)
        context.setdefault("eval_dataloader", None)
        context.update(changed)


def check_attached_everywhere(trainer: Any) -> None:
    """See to it that callbacks by which processes talk to each other are attached to all of them.

    Raises:
        CallbackError: On every process, if one lacks such a callback; the others would wait for it.
    """
    own = {
        name
        for name, item in trainer.dispatcher.attachments.items()
        if item.detached_after is None and getattr(item.callback, "is_collective", False)
    }
    everywhere: list[set[str]] = trainer.gather_objects(own)
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
        if name not in known:
            near = did_you_mean(name, [*known, "all", "none"])
            message = f"names of callbacks are needed, or all, or none; none is named {name!r}.{near}"
            raise ArgumentError("report_to", report_to, message)


def _is_installed(name: str) -> bool:
    package = getattr(load(name), "package", "")  # the module of a tracker's tool; other integrations have none
    return bool(package) and is_installed(package)


def _default_display(disable_tqdm: bool | None) -> Any:
    if disable_tqdm:
        from trackside.callbacks.builtin.printer import PrinterCallback

        return PrinterCallback()
    from trackside.callbacks.builtin.progress import ProgressCallback

    return ProgressCallback()
