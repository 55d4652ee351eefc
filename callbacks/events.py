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
        if should_log:
            on_log
        if should_evaluate:
            EVALUATE
        if should_save:
            on_save

    EVALUATE:
        for each evaluation batch:
            on_prediction_step
        on_log
        on_evaluate

``predict()`` sends on_prediction_step for each batch and then on_predict. An exception sends on_exception before
on_train_end, which always comes. on_callback_error comes at the moment an observer that keeps failing is detached.

Connect a plain function to one trainer, or to all of them::

    from trackside import events

    events.on_log.connect(print_loss, sender=trainer)    # this trainer
    events.on_log.connect(print_loss)                    # every trainer of this process

It is called as ``fn(trainer, args=..., state=..., control=..., **payload)``.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import blinker

from .errors import TracksideTypeError, TracksideValueError, UnknownNameError

Listener = TypeVar("Listener", bound=Callable[..., Any])

LAST_PLACE = 1 << 30
"""Where a receiver stands that was given no place: behind all that were."""


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


class Every:
    """A listener that hears only the steps that are multiples of ``every``."""

    def __init__(self, listener: Callable[..., Any], every: int) -> None:
        self.listener = listener
        self.every = every

    def __call__(self, trainer: Any, **kwargs: Any) -> Any:
        if kwargs["state"].global_step % self.every == 0:
            return self.listener(trainer, **kwargs)
        return None


class Signal(blinker.Signal):
    """A blinker signal that keeps order and holds its listeners.

    Receivers with a ``place`` (those of attached callbacks) come first, by place; plain listeners follow in the order
    in which they were connected. Unlike blinker's default, a listener stays connected until it is disconnected.
    """

    set_class = OrderedIds  # type: ignore[assignment]
    version = 0
    """Raised by every connect, disconnect and muting of any signal; while it stays, a sender may keep who it found."""
    has_weak_listeners = False
    """Whether a listener may vanish by itself, so that no sender may keep what it found."""
    _muted = False

    def __init__(self, name: str) -> None:
        super().__init__(f"The lifecycle event {name}.")
        self.name = name

    @property
    def is_muted(self) -> bool:
        """Whether nobody is called at present (see blinker's ``muted``)."""
        return self._muted

    @is_muted.setter
    def is_muted(self, value: bool) -> None:
        self._muted = value
        Signal.version += 1

    def connect(self, receiver: Listener, sender: Any = blinker.ANY, weak: bool = False, *, every: int = 1) -> Listener:
        """Call ``receiver`` whenever this event is sent by ``sender``.

        Args:
            receiver: Called as ``receiver(trainer, args=..., state=..., control=..., **payload)``.
            sender: The trainer to listen to; without it, all of this process. A trainer holds its listeners itself,
                so that it is collected together with them even if they refer to it.
            weak: Disconnect when the receiver is garbage collected; not together with ``every``.
            every: Hear only the steps that are multiples of this.

        Raises:
            TracksideTypeError: If ``receiver`` is not a plain callable.
            TracksideValueError: If ``every`` is not a positive whole number, or is given together with ``weak``.
        """
        if not callable(receiver) or _is_coroutine(receiver):
            raise TracksideTypeError(f"{self.name} needs a plain function as listener, not {receiver!r}")
        check_every(every)
        if weak and every > 1:
            raise TracksideValueError(f"{self.name}: weak=True and every={every} do not go together")
        Signal.version += 1
        target: Callable[..., Any] = receiver if every == 1 else Every(receiver, every)
        if weak:
            self.has_weak_listeners = self.has_weak_listeners or not hasattr(receiver, "place")
        elif sender is not blinker.ANY and not self._is_held_here(target):
            weak = _let_hold(sender, target)
        super().connect(target, sender, weak)
        return receiver

    def disconnect(self, receiver: Callable[..., Any], sender: Any = blinker.ANY) -> None:
        """Stop calling ``receiver`` for ``sender``, or at all."""
        connected: list[Any] = [held() if isinstance(held, weakref.ref) else held for held in self.receivers.values()]
        thinned = [held for held in connected if isinstance(held, Every) and held.listener == receiver]
        senders = [sender] if sender is not blinker.ANY else [ref() for ref in self._weak_senders.values()]
        targets: list[Callable[..., Any]] = [receiver, *thinned]
        for target in targets:
            super().disconnect(target, sender)
            for holder in senders:
                _let_go(holder, target)

    def send(self, sender: Any = None, /, **kwargs: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call every receiver of ``sender`` in order; an exception of one goes up.

        Returns:
            Pairs of receiver and what it returned.
        """
        if self.is_muted:
            return []
        return [(receiver, receiver(sender, **kwargs)) for receiver in self.receivers_for(sender)]

    def receivers_for(self, sender: Any) -> Iterator[Callable[..., Any]]:  # type: ignore[override]
        """Yield the receivers of ``sender`` in the order in which they are called."""
        return iter(sorted(super().receivers_for(sender), key=_place))

    def _is_held_here(self, receiver: Callable[..., Any]) -> bool:
        """Whether the signal itself holds ``receiver``: it was connected to every sender, and must stay."""
        return any(held == receiver for held in self.receivers.values() if not isinstance(held, weakref.ref))

    def _disconnect(self, receiver_id: Hashable, sender_id: Hashable) -> None:
        Signal.version += 1
        super()._disconnect(receiver_id, sender_id)

    def _make_cleanup_sender(self, sender_id: Hashable) -> Callable[[weakref.ref[Any]], None]:
        blinker_cleanup = super()._make_cleanup_sender(sender_id)

        def cleanup(ref: weakref.ref[Any]) -> None:
            # blinker keeps the receivers of a sender that is gone; they may hold a whole model
            listeners = [key for key in self._by_sender.get(sender_id, ()) if len(self._by_receiver[key]) == 1]
            blinker_cleanup(ref)
            for key in listeners:
                self.receivers.pop(key, None)
                self._by_receiver.pop(key, None)

        return cleanup


def check_every(every: object) -> None:
    """Raise TracksideValueError unless ``every`` is a whole number from 1."""
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise TracksideValueError(f"every={every!r} is not allowed: a whole number from 1")


def _is_coroutine(receiver: Any) -> bool:
    return inspect.iscoroutinefunction(receiver) or inspect.iscoroutinefunction(getattr(receiver, "__call__", None))  # noqa: B004


def _let_hold(sender: Any, receiver: Callable[..., Any]) -> bool:
    """Let ``sender`` hold ``receiver``; False where it cannot, and the signal has to."""
    try:
        weakref.ref(receiver)
        vars(sender).setdefault("_listeners", []).append(receiver)
    except (TypeError, AttributeError):
        return False
    return True


def _let_go(sender: Any, receiver: Callable[..., Any]) -> None:
    held = getattr(sender, "__dict__", {}).get("_listeners", [])
    if receiver in held:
        held.remove(receiver)


def _place(receiver: Callable[..., Any]) -> int:
    place: int = getattr(receiver, "place", LAST_PLACE)
    return place


on_init_end = Signal("on_init_end")
on_load = Signal("on_load")
on_train_begin = Signal("on_train_begin")
on_epoch_begin = Signal("on_epoch_begin")
on_step_begin = Signal("on_step_begin")
on_substep_end = Signal("on_substep_end")
on_pre_optimizer_step = Signal("on_pre_optimizer_step")
on_optimizer_step = Signal("on_optimizer_step")
on_step_end = Signal("on_step_end")
on_log = Signal("on_log")
on_prediction_step = Signal("on_prediction_step")
on_evaluate = Signal("on_evaluate")
on_predict = Signal("on_predict")
on_save = Signal("on_save")
on_epoch_end = Signal("on_epoch_end")
on_exception = Signal("on_exception")
on_train_end = Signal("on_train_end")
on_callback_error = Signal("on_callback_error")

EVENTS: dict[str, Signal] = {
    signal.name: signal
    for signal in (
        on_init_end,
        on_load,
        on_train_begin,
        on_epoch_begin,
        on_step_begin,
        on_substep_end,
        on_pre_optimizer_step,
        on_optimizer_step,
        on_step_end,
        on_log,
        on_prediction_step,
        on_evaluate,
        on_predict,
        on_save,
        on_epoch_end,
        on_exception,
        on_train_end,
        on_callback_error,
    )
}
"""Every event by its name, roughly in the order of a run."""


def signal_named(name: str) -> Signal:
    """Return the signal of the event called ``name``.

    Raises:
        UnknownNameError: If there is no such event; the message names the nearest.
    """
    try:
        return EVENTS[name]
    except KeyError:
        raise UnknownNameError("event", name, EVENTS) from None
