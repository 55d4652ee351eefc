"""The dispatcher: attaches the callbacks of one trainer, and sends them its events.

Other modules decide the order of the calls (`ordering`) and what an exception of a callback does (`faults`).
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from .._util.plain_data import plain, plain_items
from ..errors import NotPlainError
from ..events import EVENTS, Signal
from ..listeners import in_context
from ..state import TrainerControl, TrainerState
from .attachment import Attachment, AttachOptions, attachment_of, check_log_file
from .background import ALWAYS_CONNECTED, BackgroundReceiver, undo
from .callback_thread import CallbackThread, give_up_all
from .faults import FaultPolicy, called
from .introspection import overridden_events
from .receiver import STEP_EVENTS, CallbackReceiver, call_each, first_error, own_copy
from .roster import Roster
from .states import give_back, take

logger: logging.Logger = logging.getLogger("trackside.callbacks")

RESERVED = ("epoch", "step")
"""Names in every record that a monitor cannot replace."""

OF_A_RUN = ("current_epoch", "header")
"""What callbacks get by keyword within a run; it is None outside."""

STEERED_AT = ("on_epoch_begin", *sorted(STEP_EVENTS - {"on_log"}))
"""The events between two updates of an epoch that come with every step."""


class Dispatcher:
    """The callbacks of one trainer.

    Args:
        trainer: The sender of all events. Signals hold only weak references to what is connected here, so that a
            trainer is garbage collected together with its callbacks.
        args: The training arguments that callbacks get.
        state, control: Shared with the loop and every callback.

    Attributes:
        context: What callbacks get by keyword at every event; the trainer keeps it up to date in place.
        roster: Every callback that was attached and not removed, detached ones included.
    """

    def __init__(self, trainer: Any, args: Any, state: TrainerState, control: TrainerControl) -> None:
        self.trainer = trainer
        self.args = args
        self.state = state
        self.control = control
        self.context: dict[str, Any] = {"trainer": trainer, **dict.fromkeys(OF_A_RUN)}
        self.roster: Roster = Roster()
        self.faults: FaultPolicy = FaultPolicy(self._detached)
        self._connected: dict[str, Sequence[CallbackReceiver]] = {}
        self._watchers: list[Attachment] = []
        self._threads: weakref.WeakSet[CallbackThread] = weakref.WeakSet()
        self._is_steered = False
        self._steered_version: int | None = None
        self._known: dict[str, tuple[int, tuple[Callable[..., Any], ...]]] = {}

    @property
    def attachments(self) -> dict[str, Attachment]:
        """Every callback that was attached and not removed, by name in the order of the calls."""
        return self.roster.by_name

    # -- attaching ------------------------------------------------------------------------------------------------

    def attach(self, callback: Any, **options: Any) -> Attachment:
        """Attach a callback, or a class of callbacks, which is then called without arguments.

        Args:
            callback: Any object with ``on_*`` methods; a base class is not needed.
            options: See `trackside.callbacks.bus.attachment.AttachOptions`.

        Raises:
            CallbackError: If it has an ``on_...`` method that is not an event, or none that is one, or if a control
                callback is to run in the background.
            CallbackOrderError: If ``before`` and ``after`` contradict each other, or name what is not attached.
        """
        return self.attach_all([(callback, options)])[0]

    def attach_all(self, entries: Iterable[tuple[Any, AttachOptions | Mapping[str, Any]]]) -> list[Attachment]:
        """Attach several callbacks, each with its options; ``before`` may name one further down the list.

        Raises:
            CallbackError, CallbackOrderError: See `attach`; then none of them is attached.
        """
        made = []
        for callback, options in entries:
            options = options if isinstance(options, AttachOptions) else AttachOptions.of(options)
            made.append(item := attachment_of(callback, options))
            if hasattr(item.callback, "log_file_of"):
                check_log_file(item, (*self.attachments.values(), *made[:-1]), self.args)
        added = self.roster.add(made)
        for attachment in added:
            if attachment.thread is not None:
                weakref.finalize(self, attachment.thread.close)
                self._threads.add(attachment.thread)
            self._connect(attachment)
        return added

    def remove(self, callback: Any) -> Any:
        """Remove a callback, given as class, instance or name, and return it; None if it is not attached."""
        attachment = self.roster.find(callback)
        if attachment is None:
            return None
        self.roster.remove(attachment)
        self._disconnect(attachment)
        self._undo(attachment)
        if attachment.thread is not None:
            attachment.thread.close()
        return attachment.callback

    def _connect(self, attachment: Attachment) -> None:
        """Connect every overridden method; weakly, so that the receivers go with the trainer."""
        if hasattr(attachment.callback, "loss_not_finite"):
            self._watchers.append(attachment)
        self._connected[attachment.name] = self._receivers(attachment)
        for receiver in self._connected[attachment.name]:
            EVENTS[receiver.event].connect(receiver, self.trainer, weak=True)

    def _disconnect(self, attachment: Attachment) -> None:
        self._watchers = [item for item in self._watchers if item is not attachment]
        for receiver in self._connected.pop(attachment.name, ()):
            EVENTS[receiver.event].disconnect(receiver, self.trainer)

    def _undo(self, attachment: Attachment) -> None:
        """Have a callback that leaves within a run put back what it has changed."""
        if hasattr(attachment.callback, "undo") and self.context["current_epoch"] is not None:
            self._guarded(attachment, "undo", lambda _: undo(attachment, self.args, self.state, self.context))

    def _receivers(self, attachment: Attachment) -> Sequence[CallbackReceiver]:
        overridden = overridden_events(attachment.callback)
        heard = [event for event in overridden if attachment.hears(event)]
        common = (self.context, self.faults)
        if attachment.thread is None:
            return [CallbackReceiver(attachment, event, *common) for event in heard]
        return [
            BackgroundReceiver(attachment, event, *common, thread=attachment.thread, is_heard=event in heard)
            for event in EVENTS
            if event in heard or event in ALWAYS_CONNECTED
        ]

    def _detached(self, attachment: Attachment, event: str, error: BaseException) -> None:
        self._disconnect(attachment)
        if event != "undo":
            self._undo(attachment)
        if event != "on_callback_error":
            self.send("on_callback_error", callback=attachment.name, error=error)

    # -- sending --------------------------------------------------------------------------------------------------

    def receivers(self, event: str) -> tuple[Callable[..., Any], ...]:
        """Return the receivers of ``event`` from this trainer, in order; empty while the signal is muted."""
        signal = EVENTS[event]
        known, known_version = self._known.get(event), Signal.version
        if known is None or known[0] != known_version:
            found = () if signal.is_muted else signal.receivers_for(self.trainer)
            known = (known_version, tuple(in_context(receiver, self.context) for receiver in found))
            if not signal.has_weak_listeners:
                self._known[event] = known
        return known[1]

    def may_steer(self) -> bool:
        """Return whether a control callback or a plain listener is called at a step.

        Only they may set flags there: those that an observer sets at a step have no effect on several processes.
        """
        if self._steered_version != Signal.version:
            steered = (receiver for event in STEERED_AT for receiver in self.receivers(event))
            self._is_steered = any(getattr(receiver, "may_steer", True) for receiver in steered)
            may_vanish = any(EVENTS[event].has_weak_listeners for event in STEERED_AT)
            self._steered_version = None if may_vanish else Signal.version
        return self._is_steered

    def send(self, event: str, **payload: Any) -> TrainerControl:
        """Send ``event`` to all receivers in order; an exception that the fault policy lets through is raised."""
        known = self._known.get(event)
        # the short way for what is sent at every step and mostly has no receivers
        receivers = known[1] if known is not None and known[0] == Signal.version else self.receivers(event)
        if receivers:
            call_each(receivers, self.trainer, self.args, self.state, self.control, payload)
        return self.control

    def send_log(self, record: dict[str, Any], state: TrainerState) -> None:
        """Send on_log with the state to which a record belongs."""
        call_each(self.receivers("on_log"), self.trainer, self.args, state, self.control, {"logs": record})

    def send_to_all(self, event: str, **payload: Any) -> BaseException | None:
        """Send ``event`` so that it reaches every receiver even if some raise; return the first exception."""
        first: BaseException | None = None
        give_up = partial(give_up_all, self._threads)
        if event == "on_train_end":  # what calls in the background log is written while trackers still take records
            waits = (each.catch_up for each in self.receivers(event) if isinstance(each, BackgroundReceiver))
            first = first_error(waits, None, give_up)
        seen = {"args": self.args, "state": self.state, "control": self.control}
        calls = (partial(receiver, self.trainer, **seen, **own_copy(payload)) for receiver in self.receivers(event))
        return first_error(calls, first, give_up)

    # -- checkpoints in use ---------------------------------------------------------------------------------------

    def held(self) -> set[str]:
        """Return the checkpoints that callbacks in the background work on, those of removed callbacks included."""
        return {checkpoint for thread in list(self._threads) for checkpoint in thread.held()}

    def wait_until_free(self, checkpoint: str) -> None:
        """Wait until no callback in the background works on ``checkpoint``, or its call times out."""
        for thread in list(self._threads):
            thread.wait_until_free(checkpoint)

    # -- state and metrics ----------------------------------------------------------------------------------------

    def state_dicts(self) -> dict[str, Any]:
        """Return the state of each callback that a checkpoint keeps, by name, as JSON values.

        Raises:
            NotPlainError: If a state of a control callback cannot be kept; an observer's is left out.
        """
        return take(self.attachments, self._guarded, self.faults)

    @property
    def classes(self) -> dict[str, str]:
        """The class of each callback, by its name, for a checkpoint."""
        return {name: type(item.callback).__qualname__ for name, item in self.attachments.items()}

    def load_state_dicts(self, states: Mapping[str, Any], classes: Mapping[str, str] | None = None) -> None:
        """Give the callbacks the states that `state_dicts` returned; what belongs to none of them is told.

        Args:
            states: The states by the name of the callback.
            classes: The class of each callback, if known.
        """
        give_back(self.attachments, states, classes or {}, self._guarded, self.args)

    def logged_metrics(self, own: Mapping[str, Any], **context: Any) -> dict[str, Any]:
        """Return what the monitors among the callbacks add to the training record that is about to be written.

        A monitor is a callback with a method ``metrics_to_log(args, state, **context)`` that returns a dict. They are
        called in order; where two return the same name, the later one wins.

        Args:
            own: The record's own values, which a monitor does not replace.
            context: What monitors get by keyword beside the context of every event.
        """

        def ask(monitor: Any) -> dict[str, Any]:
            answer = monitor.metrics_to_log(self.args, self.state, **self.context, **context)
            return self.as_plain(dict(answer or {}), "metrics_to_log")

        added: dict[str, Any] = {}
        for item in self._monitors():
            answer = self._guarded(item, "metrics_to_log", ask) or {}
            for name in answer.keys() & {*own, *RESERVED}:
                value = answer.pop(name)
                if name not in own or value != own[name]:
                    self.faults.tell_taken(item, name)
            added |= answer
        return added

    def _monitors(self) -> list[Attachment]:
        """Return the monitors that are asked at this step, in order."""
        heard = [item for item in self.attachments.values() if item.detached_after is None and item.hears("on_log")]
        asked = [item for item in heard if self.state.global_step % item.every == 0]
        return [item for item in asked if hasattr(item.callback, "metrics_to_log")]

    @property
    def wants_losses(self) -> bool:
        """Whether a callback has a method ``loss_not_finite``."""
        return bool(self._watchers)

    def tell_not_finite(self, step: int, loss: float) -> None:
        """Call ``loss_not_finite(args, state, control, step=step, loss=loss)`` of these callbacks."""
        seen = (self.args, self.state, self.control)
        for item in sorted(self._watchers, key=lambda item: item.placed):
            self._guarded(item, "loss_not_finite", lambda each: each.loss_not_finite(*seen, step=step, loss=loss))

    def as_plain(self, values: Mapping[str, Any], what: str) -> dict[str, Any]:
        """Return values as plain data. What an observer gives that cannot be kept is left out, and told once.

        Raises:
            NotPlainError: If a value that no observer gives cannot be kept.
        """
        observer = called.value
        if observer is None:
            made: dict[str, Any] = plain(values, what)
            return made
        kept, errors = plain_items(values, what)
        for error in errors:
            self.faults.lost(observer, error)
        return kept

    def _guarded(self, attachment: Attachment, what: str, call: Callable[[Any], Any]) -> Any:
        """Call a callback outside of the events, under the same fault policy and accounting; None if it failed."""
        outer, called.value = called.value, attachment if attachment.role == "observer" else None
        start = perf_counter()
        try:
            if attachment.thread is not None:
                attachment.thread.flush()
            result = call(attachment.callback)
        except NotPlainError as error:
            return self.faults.lost(attachment, error)
        except BaseException as error:
            return self.faults.failed(attachment, what, error)
        finally:
            called.value = outer
            attachment.seconds += perf_counter() - start
        if what in attachment.failing:
            attachment.recovered()
        return result
