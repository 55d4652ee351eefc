"""The dispatcher: connects one trainer's callbacks to the signals, in order, and keeps account of them.

It decides who is called when (order), what an exception of a callback does (fault policy), and how much time each
callback took (accounting). The whole way from ``send`` to a callback's method is on this page.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

from .attachment import Attachment, in_order
from .errors import UnknownNameError
from .events import EVENTS
from .hooks import check_choice, check_hooks, foreign_role, instantiate, location_of, overridden_events, snake_case
from .state import TrainerControl, TrainerState

logger = logging.getLogger("trackside.callbacks")

FAILURES_IN_A_ROW = 3
"""So many failures one after the other, and an observer is detached."""

COPIED = ("logs", "metrics")
"""Payload of which every receiver gets its own copy."""

Names = str | Sequence[str]


class Slot:
    """One method of one callback, as the receiver that is connected to the signal."""

    __slots__ = ("__weakref__", "attachment", "dispatcher", "event", "method", "place")

    def __init__(self, dispatcher: Dispatcher, attachment: Attachment, event: str, place: int) -> None:
        self.dispatcher = dispatcher
        self.attachment = attachment
        self.event = event
        self.place = place
        self.method: Callable[..., Any] = getattr(attachment.callback, event)

    def __call__(
        self, trainer: Any, *, args: Any, state: TrainerState, control: TrainerControl, **payload: Any
    ) -> TrainerControl | None:
        attachment = self.attachment
        if attachment.every > 1 and state.global_step % attachment.every:
            return None
        start = perf_counter()
        try:
            returned: TrainerControl | None = self.method(args, state, control, **self.dispatcher.context, **payload)
        except Exception as error:
            self.dispatcher.failed(attachment, self.event, error)
            return None
        finally:
            attachment.seconds += perf_counter() - start
            attachment.calls += 1
        attachment.failures_in_a_row = 0
        if returned is not None and returned is not control and hasattr(returned, "should_training_stop"):
            control.take(returned)
        if control.should_training_stop and control.stop_reason is None:
            control.stop_reason = f"{attachment.name} asked for it at {self.event}"
        return control


class Dispatcher:
    """The callbacks of one trainer.

    Args:
        trainer: The sender of all events. Signals hold only weak references to what is connected here, so that a
            trainer is collected together with its callbacks.
        args: The training arguments handed to callbacks.
        state, control: Shared with the loop and every callback.
    """

    def __init__(self, trainer: Any, args: Any, state: TrainerState, control: TrainerControl) -> None:
        self.trainer = trainer
        self.args = args
        self.state = state
        self.control = control
        self.context: dict[str, Any] = {"trainer": trainer}
        """What callbacks get by keyword on every event; the trainer keeps it up to date."""
        self.attachments: dict[str, Attachment] = {}
        """Every callback ever attached and not removed, detached ones included, by name in the order of the calls."""
        self._slots: list[Slot] = []
        self._receivers: dict[str, tuple[int, tuple[Callable[..., Any], ...]]] = {}

    # -- attaching ------------------------------------------------------------------------------------------------

    def attach(
        self,
        callback: Any,
        *,
        name: str | None = None,
        role: str | None = None,
        on_error: str | None = None,
        before: Names = (),
        after: Names = (),
        on: Iterable[str] | None = None,
        every: int = 1,
        origin: str | None = None,
    ) -> Attachment:
        """Attach a callback, or a class of callbacks, which is then called without arguments.

        Args:
            callback: Any object with ``on_*`` methods; no base class is needed.
            name: Its name; without one, the class's ``name`` or a name made from the class name.
            role, on_error: Override what the class declares (see `TrainerCallback`).
            before, after: Names of callbacks that it must precede or follow, against the usual order.
            on: Hear only these events.
            every: Hear only steps that are multiples of this.
            origin: Where the callback comes from, in words, for `trackside plan`.

        Raises:
            CallbackError: If it has an ``on_...`` method that is no event, or none that is one.
            CallbackOrderError: If ``before`` and ``after`` contradict each other.
        """
        if isinstance(callback, type):
            callback = instantiate(callback)
        check_hooks(type(callback))
        for event in on or ():
            if event not in EVENTS:
                raise UnknownNameError("event", event, EVENTS)
        role = role or getattr(callback, "role", None) or foreign_role(callback)
        on_error = on_error or getattr(callback, "on_error", None) or ("warn" if role == "observer" else "raise")
        check_choice(callback, "role", role, ("control", "observer"))
        check_choice(callback, "on_error", on_error, ("raise", "warn", "detach"))
        attachment = Attachment(
            callback=callback,
            name=self._free_name(callback, name or getattr(callback, "name", None)),
            role=role,
            on_error=on_error,
            origin=origin or f"Python, {location_of(type(callback))}",
            before=(before,) if isinstance(before, str) else tuple(before),
            after=(after,) if isinstance(after, str) else tuple(after),
            on=frozenset(on) if on is not None else None,
            every=every,
        )
        candidates = {**self.attachments, attachment.name: attachment}
        self.attachments = in_order(candidates)
        self._connect()
        return attachment

    def remove(self, callback: Any) -> Any:
        """Remove a callback, given as class, instance or name, and return it; None where there is no such."""
        for name, attachment in self.attachments.items():
            if callback == name or callback is attachment.callback or callback is type(attachment.callback):
                del self.attachments[name]
                self._connect()
                return attachment.callback
        return None

    def _free_name(self, callback: Any, name: str | None) -> str:
        cls = type(callback)
        if any(type(other.callback) is cls for other in self.attachments.values()):
            logger.warning("a second callback of class %s is attached; both stay", cls.__name__)
        base = str(name) if isinstance(name, str) and name else snake_case(cls.__name__)
        free, number = base, 2
        while free in self.attachments:
            free, number = f"{base}_{number}", number + 1
        return free

    def _connect(self) -> None:
        """Connect every overridden method in order. The signals hold slots weakly, so that they go with the trainer."""
        for slot in self._slots:
            EVENTS[slot.event].disconnect(slot, self.trainer)
        self._slots = [
            Slot(self, attachment, event, place)
            for place, attachment in enumerate(self.attachments.values())
            if attachment.detached_after is None
            for event in overridden_events(attachment.callback)
            if attachment.on is None or event in attachment.on
        ]
        for slot in self._slots:
            EVENTS[slot.event].connect(slot, self.trainer, weak=True)

    # -- sending --------------------------------------------------------------------------------------------------

    def receivers(self, event: str) -> tuple[Callable[..., Any], ...]:
        """Return who hears ``event`` from this trainer, in order; empty while the signal is muted."""
        signal = EVENTS[event]
        if signal.is_muted:
            return ()
        cached = self._receivers.get(event)
        if cached is None or cached[0] != signal.version:
            cached = (signal.version, tuple(signal.receivers_for(self.trainer)))
            if not any(_is_foreign_weak(held) for held in signal.receivers.values()):
                self._receivers[event] = cached
        return cached[1]

    def send(self, event: str, **payload: Any) -> TrainerControl:
        """Send ``event`` to everyone who listens, in order; an exception that is let through goes up."""
        for receiver in self.receivers(event):
            receiver(self.trainer, args=self.args, state=self.state, control=self.control, **_own_copy(payload))
        return self.control

    def send_to_all(self, event: str, **payload: Any) -> BaseException | None:
        """Send ``event`` so that it reaches everyone even if some raise; return the first exception."""
        first: BaseException | None = None
        for receiver in self.receivers(event):
            try:
                receiver(self.trainer, args=self.args, state=self.state, control=self.control, **_own_copy(payload))
            except Exception as error:
                first = first or error
        return first

    def failed(self, attachment: Attachment, event: str, error: Exception) -> None:
        """Note a failure: raise it again, or report it and detach the callback when it is time.

        Raises:
            Exception: ``error`` itself, if the callback's policy is to raise.
        """
        attachment.failures += 1
        attachment.failures_in_a_row += 1
        attachment.last_error = error
        if attachment.on_error == "raise":
            error.add_note(f"raised by the callback {attachment.name!r} ({attachment.where}) in {event}")
            raise error
        if attachment.failures == 1:
            logger.warning(
                "the callback %r (%s) failed in %s; training goes on: %r",
                attachment.name,
                attachment.where,
                event,
                error,
                exc_info=error,
            )
        limit = 1 if attachment.on_error == "detach" else FAILURES_IN_A_ROW
        if attachment.failures_in_a_row >= limit and attachment.detached_after is None:
            attachment.detached_after = attachment.failures
            self._connect()
            if event != "on_callback_error":
                self.send("on_callback_error", callback=attachment.name, error=error)

    # -- state and accounts ---------------------------------------------------------------------------------------

    def state_dicts(self) -> dict[str, Any]:
        """Return what each callback wants to be kept in a checkpoint, by name."""
        kept = {name: _state_of(item.callback) for name, item in self.attachments.items()}
        return {name: state for name, state in kept.items() if state}

    def load_state_dicts(self, states: dict[str, Any]) -> None:
        """Give each callback back what `state_dicts` took; states of callbacks that are not there are left out."""
        for name, state in states.items():
            attachment = self.attachments.get(name)
            if attachment is None:
                logger.info("the checkpoint holds a state of the callback %r, which is not attached", name)
            elif hasattr(attachment.callback, "load_state_dict"):
                attachment.callback.load_state_dict(state)
            else:  # transformers' ExportableState: constructor arguments and attributes
                for key, value in {**state.get("args", {}), **state.get("attributes", {})}.items():
                    setattr(attachment.callback, key, value)


def _own_copy(payload: dict[str, Any]) -> dict[str, Any]:
    for key in COPIED:
        if key in payload:
            payload = {**payload, key: dict(payload[key])}
    return payload


def _is_foreign_weak(held: Any) -> bool:
    return isinstance(held, weakref.ref) and not isinstance(held(), Slot)


def _state_of(callback: Any) -> dict[str, Any]:
    if hasattr(callback, "state_dict"):
        return dict(callback.state_dict())
    if hasattr(callback, "state") and hasattr(type(callback), "from_state"):
        return dict(callback.state())
    return {}
