"""The lifecycle events: one blinker signal for each, sent by the trainer.

What a run sends, in order (a test compares this drawing with real runs of both trainers)::

    on_init_end
    if resuming:
        on_load
    on_train_begin
    if evaluating on start:
        EVALUATE
    for each epoch:
        on_epoch_begin
        for each update:
            on_step_begin
            for each micro-batch but the last:
                on_substep_end
            on_pre_optimizer_step
            on_optimizer_step
            on_step_end
            ACT
        on_epoch_end
        ACT
    on_log
    on_train_end

    ACT:
        if should_roll_back:
            on_load
        if should_log:
            on_log
        if should_evaluate:
            EVALUATE
        if should_save:
            on_save

    EVALUATE:
        on_evaluate_begin
        for each evaluation batch:
            on_prediction_step
        on_log
        on_evaluate

``predict()`` sends on_predict_begin, on_prediction_step for each batch, and then on_predict. An exception sends
on_exception before on_train_end, which always comes. on_callback_error is sent when an observer that keeps failing is
detached.

Connect a plain function to one trainer, or to all of them::

    from trackside import events

    events.on_log.connect(print_loss, sender=trainer)    # this trainer
    events.on_log.connect(print_loss)                    # every trainer of this process

It is called as ``fn(trainer, args=..., state=..., control=..., **kwargs)``, where ``kwargs`` are those of a callback's
method; a function without ``**kwargs`` gets what it has parameters for. Any thread may connect and disconnect them.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, ClassVar, Literal, TypeVar, get_args

import blinker

from ._util.display import counted, short_repr
from .errors import TracksideValueError, UnknownNameError, check_count
from .listeners import Listener, check_listener

Function = TypeVar("Function", bound=Callable[..., Any])

EventName = Literal[
    "on_init_end",
    "on_load",
    "on_train_begin",
    "on_epoch_begin",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
    "on_log",
    "on_evaluate_begin",
    "on_predict_begin",
    "on_prediction_step",
    "on_evaluate",
    "on_predict",
    "on_save",
    "on_epoch_end",
    "on_exception",
    "on_train_end",
    "on_callback_error",
]
"""The names of all events, roughly in the order of a run."""


class OrderedIds(dict[Hashable, None]):
    """The part of ``set`` that blinker uses, in order of arrival."""

    def add(self, item: Hashable) -> None:
        self.setdefault(item)

    def discard(self, item: Hashable) -> None:
        self.pop(item, None)

    def copy(self) -> OrderedIds:
        return OrderedIds(self)

    def __or__(self, other: Iterable[Hashable]) -> OrderedIds:  # type: ignore[override]
        return OrderedIds(dict.fromkeys([*self, *other]))


class Signal(blinker.Signal):
    """A blinker signal that calls its receivers in order and keeps them until they are disconnected.

    Receivers with a ``position`` (those of attached callbacks) come first, by position; plain listeners follow in the
    order in which they were connected. blinker itself only ever gets weak references (see ``docs/adr``): a listener of
    one trainer is held by that trainer, one of all trainers by the signal.
    """

    set_class = OrderedIds  # type: ignore[assignment]
    version: ClassVar[int] = 0
    """Counts every connect, disconnect and muting of any signal; while it stays, a sender may cache its receivers."""
    has_weak_listeners: bool = False
    """Whether a listener may vanish without a disconnect, so that no sender may cache its receivers."""
    _is_muted = False
    _lock: ClassVar[threading.RLock] = threading.RLock()
    """Held while receivers are changed or listed; re-entrant, since garbage collection may disconnect meanwhile."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The lifecycle event {name}.")
        self.name = name
        self._listeners: dict[str, dict[Hashable, dict[int, Any]]] = {}
        self._holders: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary({id(self): self})

    @short_repr
    def __repr__(self) -> str:
        return f"<Signal {self.name}: {counted(len(self.receivers), 'receiver')}{', muted' * self.is_muted}>"

    @property
    def is_muted(self) -> bool:
        """Whether the signal calls no receiver at present (see blinker's ``muted``)."""
        return self._is_muted

    @is_muted.setter
    def is_muted(self, value: bool) -> None:
        self._is_muted = value
        Signal.version += 1

    def connect(self, receiver: Function, sender: Any = blinker.ANY, weak: bool = False, *, every: int = 1) -> Function:
        """Call ``receiver`` whenever this event is sent by ``sender``.

        Args:
            receiver: Called as ``receiver(trainer, args=..., state=..., control=..., **payload)``.
            sender: The trainer to listen to; without it, all trainers of this process. A trainer and its listeners are
                garbage collected together, also if they refer to each other.
            weak: Disconnect when the receiver is garbage collected; not together with ``every``.
            every: Call it only at steps that are multiples of this.

        Raises:
            TracksideTypeError: If ``receiver`` is not a plain callable, or needs what no listener of the event gets.
            TracksideValueError: If ``every`` is not a positive whole number, or is given together with ``weak``.
        """
        if not _has_position(receiver):
            check_listener(self.name, receiver)
        check_count("every", every)
        if weak and every > 1:
            raise TracksideValueError(f"{self.name}: weak=True and every={every} do not go together")
        with self._lock:
            target: Any = receiver
            sender = getattr(sender, "sender_itself", sender)  # a view of it
            if weak:
                self.has_weak_listeners = self.has_weak_listeners or not _has_position(receiver)
            else:
                listeners = self._held_by(sender).setdefault(_identity(receiver), {})
                target = listeners.setdefault(every, target if _has_position(target) else Listener(receiver, every))
            super().connect(target, sender, weak=True)
            Signal.version += 1
        return receiver

    def disconnect(self, receiver: Callable[..., Any], sender: Any = blinker.ANY) -> None:
        """Stop calling ``receiver`` for ``sender``, or for all."""
        with self._lock:
            sender = getattr(sender, "sender_itself", sender)
            if _identity(receiver) in self.receivers:  # blinker would keep an entry for one that is not
                super().disconnect(receiver, sender)
            for holder in [*self._holders.values()] if sender is blinker.ANY else [sender]:
                for target in self._held_by(holder).pop(_identity(receiver), {}).values():
                    super().disconnect(target, sender)
            Signal.version += 1

    def send(self, sender: Any = None, /, **kwargs: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call every receiver of ``sender`` in order; an exception of one is raised at once.

        Returns:
            Pairs of receiver and what it returned.
        """
        if self.is_muted:
            return []
        return [(receiver, receiver(sender, **kwargs)) for receiver in self.receivers_for(sender)]

    def receivers_for(self, sender: Any) -> Iterator[Callable[..., Any]]:  # type: ignore[override]
        """Yield the receivers of ``sender`` in the order in which they are called."""
        with self._lock:
            found = list(super().receivers_for(sender))
        connected: list[Any] = [receiver for receiver in found if _has_position(receiver)]
        plain = [item if isinstance(item, Listener) else Listener(item) for item in found if not _has_position(item)]
        once = {(_identity(item.function), item.every): item for item in plain}  # it may hear this sender, and all
        return iter([*sorted(connected, key=lambda receiver: receiver.position), *once.values()])

    def _held_by(self, sender: Any) -> dict[Hashable, dict[int, Any]]:
        """Return the listeners that ``sender`` holds for this signal, by identity and ``every``.

        The signal itself holds those of all senders, and of a sender that takes no attributes or weak references.
        """
        can_hold = isinstance(getattr(sender, "__dict__", None), dict) and _has_weak_references(sender)
        holder = sender if can_hold and sender is not blinker.ANY else self
        self._holders[id(holder)] = holder
        listeners: dict[Hashable, dict[int, Any]]
        listeners = vars(holder).setdefault("_listeners", {}).setdefault(self.name, {})
        return listeners


def _identity(function: Any) -> Hashable:
    """Return what tells a function from others, as in blinker; a bound method is a new object each time."""
    if inspect.ismethod(function):
        return id(function.__func__), id(function.__self__)
    return id(function)


def _has_position(receiver: Any) -> bool:
    """Return whether it is the method of an attached callback, not a plain listener."""
    return hasattr(type(receiver), "position") or "position" in getattr(receiver, "__dict__", ())  # without reading it


def _has_weak_references(sender: Any) -> bool:
    try:
        weakref.ref(sender)
    except TypeError:
        return False
    return True


on_init_end: Signal = Signal("on_init_end")
on_load: Signal = Signal("on_load")
on_train_begin: Signal = Signal("on_train_begin")
on_epoch_begin: Signal = Signal("on_epoch_begin")
on_step_begin: Signal = Signal("on_step_begin")
on_substep_end: Signal = Signal("on_substep_end")
on_pre_optimizer_step: Signal = Signal("on_pre_optimizer_step")
on_optimizer_step: Signal = Signal("on_optimizer_step")
on_step_end: Signal = Signal("on_step_end")
on_log: Signal = Signal("on_log")
on_evaluate_begin: Signal = Signal("on_evaluate_begin")
on_predict_begin: Signal = Signal("on_predict_begin")
on_prediction_step: Signal = Signal("on_prediction_step")
on_evaluate: Signal = Signal("on_evaluate")
on_predict: Signal = Signal("on_predict")
on_save: Signal = Signal("on_save")
on_epoch_end: Signal = Signal("on_epoch_end")
on_exception: Signal = Signal("on_exception")
on_train_end: Signal = Signal("on_train_end")
on_callback_error: Signal = Signal("on_callback_error")

EVENTS: dict[str, Signal] = {name: globals()[name] for name in get_args(EventName)}
"""The signal of each event by its name."""


def signal_named(name: str) -> Signal:
    """Return the signal of the event called ``name``.

    Raises:
        UnknownNameError: If it is not an event; the message names the nearest.
    """
    try:
        return EVENTS[name]
    except KeyError:
        raise UnknownNameError("event", name, EVENTS) from None
