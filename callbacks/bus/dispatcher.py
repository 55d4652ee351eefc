"""The dispatcher: connects one trainer's callbacks to the signals, in order, and keeps account of them.

It decides who is called when (order), what an exception of a callback does (fault policy), and how much time each
callback took (accounting). The whole way from ``send`` to a callback's method is on this page.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from ..errors import CallbackTimeoutError
from ..events import EVENTS, Signal
from ..state import TrainerControl, TrainerState
from .attachment import Attachment, Names, attachment_of, in_order
from .background import background_slots
from .introspection import overridden_events
from .receiver import Slot

logger = logging.getLogger("trackside.callbacks")

FAILURES_IN_A_ROW = 3
"""So many failures one after the other, and an observer is detached."""

COPIED = ("logs", "metrics")
"""Payload of which every receiver gets its own copy."""

STEERED_AT = (
    "on_epoch_begin",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_step_end",
)
"""The events between two updates of an epoch, as far as they come with every step."""

Receiver = Callable[..., Any]


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
        self._monitors: list[Attachment] = []
        self._is_steered = False
        self._steered_version: int | None = None
        self._known: dict[str, tuple[int, tuple[Receiver, ...]]] = {}

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
        background: bool | None = None,
        timeout_s: float | None = None,
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
            background: Call it on a thread of its own (observers only; see `background`); without
                a value, the class's ``background`` counts.
            timeout_s: A call in the background that takes longer is given up; without a value, the class's
                ``timeout_s``.
            origin: Where the callback comes from, in words, for `trackside plan`.

        Raises:
            CallbackError: If it has an ``on_...`` method that is no event, or none that is one, or if a control
                callback is to run in the background.
            CallbackOrderError: If ``before`` and ``after`` contradict each other, or name what is not attached.
        """
        options: dict[str, Any] = {
            "name": name,
            "role": role,
            "on_error": on_error,
            "before": before,
            "after": after,
            "on": on,
        }
        options |= {"every": every, "background": background, "timeout_s": timeout_s, "origin": origin}
        return self.attach_all([(callback, options)])[0]

    def attach_all(self, entries: Iterable[tuple[Any, Mapping[str, Any]]]) -> list[Attachment]:
        """Attach several callbacks with the options of `attach`; ``before`` may name one further down the list."""
        candidates, added = dict(self.attachments), []
        for callback, options in entries:
            attachment = attachment_of(callback, taken=candidates, **options)
            candidates[attachment.name] = attachment
            added.append(attachment)
            if attachment.worker is not None:
                weakref.finalize(self, attachment.worker.close)
        self.attachments = in_order(candidates)
        self._connect()
        return added

    def remove(self, callback: Any) -> Any:
        """Remove a callback, given as class, instance or name, and return it; None where there is no such."""
        for name, attachment in self.attachments.items():
            if callback == name or callback is attachment.callback or callback is type(attachment.callback):
                del self.attachments[name]
                if attachment.worker is not None:
                    attachment.worker.close()
                for other in self.attachments.values():
                    other.forget(name)
                self._connect()
                return attachment.callback
        return None

    def reorder(self) -> None:
        """Put the callbacks in order again, after ``before`` or ``after`` of an attachment was changed."""
        self.attachments = in_order(self.attachments)
        self._connect()

    def _connect(self) -> None:
        """Connect every overridden method in order. The signals hold slots weakly, so that they go with the trainer."""
        for slot in self._slots:
            EVENTS[slot.event].disconnect(slot, self.trainer)
        attached = [item for item in self.attachments.values() if item.detached_after is None]
        self._monitors = [item for item in attached if hasattr(item.callback, "metrics_to_log")]
        self._slots = [slot for place, item in enumerate(attached) for slot in self._slots_of(item, place)]
        for slot in self._slots:
            EVENTS[slot.event].connect(slot, self.trainer, weak=True)

    def _slots_of(self, attachment: Attachment, place: int) -> Sequence[Slot]:
        overridden = overridden_events(attachment.callback)
        heard = [event for event in overridden if attachment.on is None or event in attachment.on]
        if attachment.worker is not None:
            return background_slots(self, attachment, heard, place)
        return [Slot(self, attachment, event, place) for event in heard]

    # -- sending --------------------------------------------------------------------------------------------------

    def receivers(self, event: str) -> tuple[Receiver, ...]:
        """Return who hears ``event`` from this trainer, in order; empty while the signal is muted."""
        signal = EVENTS[event]
        known = self._known.get(event)
        if known is None or known[0] != Signal.version:
            known = (Signal.version, () if signal.is_muted else tuple(signal.receivers_for(self.trainer)))
            if not signal.has_weak_listeners:
                self._known[event] = known
        return known[1]

    def may_steer(self) -> bool:
        """Return whether anybody may set flags at a step: a control callback other than the flow, or a plain listener.

        Observers watch: over several processes, flags that they set at a step have no effect.
        """
        if self._steered_version != Signal.version:
            self._is_steered = any(_may_steer(receiver) for event in STEERED_AT for receiver in self.receivers(event))
            may_vanish = any(EVENTS[event].has_weak_listeners for event in STEERED_AT)
            self._steered_version = None if may_vanish else Signal.version
        return self._is_steered

    def send(self, event: str, **payload: Any) -> TrainerControl:
        """Send ``event`` to everyone who listens, in order; an exception that is let through goes up."""
        known = self._known.get(event)
        # the short way for what is sent at every step and mostly heard by nobody
        receivers = known[1] if known is not None and known[0] == Signal.version else self.receivers(event)
        for receiver in receivers:
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

    def failed(self, attachment: Attachment, event: str, error: BaseException) -> None:
        """Note a failure: raise it again, or report it and detach the callback when it is time.

        Raises:
            Exception: ``error`` itself, if the callback's policy is to raise.
        """
        attachment.failures += 1
        attachment.failures_in_a_row += 1
        attachment.failing.add(event)
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
        at_once = attachment.on_error == "detach" or isinstance(error, CallbackTimeoutError)
        limit = 1 if at_once else FAILURES_IN_A_ROW
        if attachment.failures_in_a_row >= limit and attachment.detached_after is None:
            attachment.detached_after = attachment.failures
            self._connect()
            if event != "on_callback_error":
                self.send("on_callback_error", callback=attachment.name, error=error)

    # -- state and accounts ---------------------------------------------------------------------------------------

    def state_dicts(self) -> dict[str, Any]:
        """Return what each callback wants to be kept in a checkpoint, by name."""
        kept = {name: self._guarded(item, "state_dict", _state_of) for name, item in self.attachments.items()}
        return {name: dict(state) for name, state in kept.items() if state}

    def load_state_dicts(self, states: Mapping[str, Any]) -> None:
        """Give each callback back what `state_dicts` took; states of callbacks that are not there are left out."""
        for name, state in states.items():
            attachment = self.attachments.get(name)
            if attachment is None:
                logger.info("the checkpoint holds a state of the callback %r, which is not attached", name)
            else:
                self._guarded(attachment, "load_state_dict", partial(_restore, state=state))

    def logged_metrics(self) -> dict[str, float]:
        """Return what the monitors among the callbacks add to the training record that is about to be written.

        A monitor is a callback with a method ``metrics_to_log(args, state, **context)`` that returns a dict. Asked in
        the order of the callbacks; where two give the same name, the later one wins.
        """
        metrics: dict[str, float] = {}
        for item in self._monitors:
            metrics.update(self._guarded(item, "metrics_to_log", self._ask) or {})
        return metrics

    def _ask(self, monitor: Any) -> Any:
        return monitor.metrics_to_log(self.args, self.state, **self.context)

    def _guarded(self, attachment: Attachment, what: str, call: Callable[[Any], Any]) -> Any:
        """Call a callback outside of the events, under the same fault policy and accounting; None if it failed."""
        start = perf_counter()
        try:
            if attachment.worker is not None:
                attachment.worker.flush()
            result = call(attachment.callback)
        except Exception as error:
            return self.failed(attachment, what, error)
        finally:
            attachment.seconds += perf_counter() - start
        if what in attachment.failing:
            attachment.recovered()
        return result


def _may_steer(receiver: Receiver) -> bool:
    if isinstance(receiver, Slot):
        return not (receiver.is_flow or receiver.attachment.role == "observer")
    return True


def _own_copy(payload: dict[str, Any]) -> dict[str, Any]:
    for key in COPIED:
        if key in payload:
            payload = {**payload, key: dict(payload[key])}
    return payload


def _state_of(callback: Any) -> dict[str, Any]:
    if hasattr(callback, "state_dict"):
        return dict(callback.state_dict())
    if hasattr(callback, "state") and hasattr(type(callback), "from_state"):
        return dict(callback.state())
    return {}


def _restore(callback: Any, state: dict[str, Any]) -> None:
    if hasattr(callback, "load_state_dict"):
        callback.load_state_dict(state)
        return
    # transformers' ExportableState: constructor arguments and attributes
    for key, value in {**state.get("args", {}), **state.get("attributes", {})}.items():
        setattr(callback, key, value)
