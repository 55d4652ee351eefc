"""Receivers: the methods of attached callbacks, as they are connected to signals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any

from .._util.plain_data import copy_plain
from .._util.signatures import keywords_read, not_run
from ..errors import CallbackError
from ..state import FLAGS, TrainerControl, TrainerState
from .attachment import Attachment, Position
from .faults import PASSED_ON, FaultPolicy, called

logger: logging.Logger = logging.getLogger("trackside.callbacks")

STEP_EVENTS = frozenset(
    {"on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"}
)
"""The events to which ``every`` applies; all others are rare, or must not be missed."""


COPIED = ("logs", "metrics")
"""Payload of which every receiver gets its own copy."""


class CallbackReceiver:
    """One method of one callback.

    Args:
        attachment: The callback.
        event: The event, and the name of the method.
        context: What the method gets by keyword beside the payload; the dispatcher's own, which it keeps up to date.
        faults: Called with what the method raises.
    """

    __slots__ = (
        "__weakref__",
        "_is_told",
        "attachment",
        "context",
        "event",
        "every",
        "faults",
        "is_observer",
        "method",
        "read",
        "reads_keywords",
    )

    def __init__(self, attachment: Attachment, event: str, context: Mapping[str, Any], faults: FaultPolicy) -> None:
        self.attachment: Attachment = attachment
        self.event: str = event
        self.context: Mapping[str, Any] = context
        self.faults: FaultPolicy = faults
        self.every: int = attachment.every if event in STEP_EVENTS else 1
        self.is_observer: bool = attachment.role == "observer"
        self.method: Any = getattr(attachment.callback, event, None)
        self.read: tuple[str, ...] | None = keywords_read(self.method, positional=3)
        self.reads_keywords: bool = self.read != ()
        self._is_told: bool = False

    def __call__(
        self, trainer: Any, *, args: Any, state: TrainerState, control: TrainerControl, **payload: Any
    ) -> None:
        call_each((self,), trainer, args, state, control, payload)

    def keywords(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what the method gets by keyword: what it reads of the context and the payload, which is its own."""
        read, context = self.read, self.context
        if read is None:
            return {**context, **own_copy(payload)} if payload else context
        given = {name: context[name] for name in read if name in context}
        for name in payload:
            if name in read:
                given[name] = copy_plain(payload[name]) if name in COPIED else payload[name]
        return given

    @property
    def position(self) -> Position:
        """The callback's position in the order of the calls."""
        return self.attachment.placed

    @property
    def may_steer(self) -> bool:
        """Whether processes must exchange its flags: an observer's have no effect."""
        return not self.is_observer

    def take(self, returned: Any, control: TrainerControl) -> None:
        """Take the flags of a control that the method returned instead of changing the one it got.

        Another value is told, once, unless it is that of a lambda, which always returns one.

        Raises:
            CallbackError: If it returned a coroutine or a generator.
        """
        if hasattr(returned, "should_training_stop") and not isinstance(returned, type):
            control.update_from(returned)
        elif not_run(returned):
            raise never_ran(self.attachment, self.event)
        elif not self._is_told and getattr(self.method, "__name__", "") != "<lambda>":
            self._is_told = True
            logger.warning(
                "%s.%s (%s) returned a value of type %s, which has no effect: set the flags of control, such as "
                "control.should_training_stop = True",
                *(type(self.attachment.callback).__name__, self.event, self.attachment.location),
                type(returned).__name__,
            )

    def note_reasons(self, control: TrainerControl, before: Mapping[str, Any]) -> None:
        """Note the callback as the reason of what it has decided, unless it has given another.

        A misspelt flag is a failure of the callback.
        """
        if len(before) != len(vars(control)):
            try:
                control.check_names(before)
            except CallbackError as error:
                self.faults.failed(self.attachment, self.event, error)
        name, own = self.attachment.name, control.reasons
        decided = [flag for flag in FLAGS if getattr(control, flag) and not before[flag]]
        decided += ["rate_factor"] * (control.rate_factor != before["rate_factor"])
        default = {flag: f"{name} at {self.event}" for flag in decided if own.get(flag) == before["reasons"].get(flag)}
        control.reasons = {**own, **default}
        if control.should_training_stop and not before["should_training_stop"]:
            control.stop(f"{name} asked for it at {self.event}")


def never_ran(attachment: Attachment, event: str) -> CallbackError:
    """Return the error of a method that returned a coroutine or a generator, whose body nothing runs."""
    what = f"{type(attachment.callback).__name__}.{event} ({attachment.location})"
    return CallbackError(f"{what} returns a coroutine or a generator, whose body is never run; call what it should do")


def call_each(
    receivers: Iterable[Callable[..., Any]],
    trainer: Any,
    args: Any,
    state: TrainerState,
    control: TrainerControl,
    payload: Mapping[str, Any],
) -> None:
    """Call the receivers of an event in order.

    The methods of all callbacks are called from this one loop: a function for each would take longer than what it does.
    What the clock and the flags show after one call is what they were before the next.
    """
    flags, outer, is_marked = control.__dict__, None, False
    before, start = [*flags.values()], perf_counter()
    try:
        for receiver in receivers:
            if type(receiver) is not CallbackReceiver:
                if is_marked:
                    called.value, is_marked = outer, False
                receiver(trainer, args=args, state=state, control=control, **own_copy(payload))
                if len(flags) != len(before):
                    control.check_names(dict(zip(flags, before, strict=False)))
                before, start = [*flags.values()], perf_counter()
                continue
            if receiver.every > 1 and state.global_step % receiver.every:
                continue
            attachment = receiver.attachment
            if receiver.is_observer:
                if not is_marked:
                    outer, is_marked = called.value, True
                called.value = attachment
            elif is_marked:
                called.value, is_marked = outer, False
            try:
                if receiver.reads_keywords:
                    returned = receiver.method(args, state, control, **receiver.keywords(payload))
                else:
                    returned = receiver.method(args, state, control)
                if returned is not None and returned is not control:
                    receiver.take(returned, control)
            except BaseException as error:
                receiver.faults.failed(attachment, receiver.event, error)
                before = [*flags.values()]
                continue
            finally:
                end = perf_counter()
                attachment.seconds += end - start
                attachment.calls += 1
                start = end
            if attachment.failing and receiver.event in attachment.failing:
                attachment.recovered()
            if [*flags.values()] != before:
                receiver.note_reasons(control, dict(zip(flags, before, strict=False)))
                before = [*flags.values()]
    finally:
        if is_marked:
            called.value = outer


def own_copy(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what one receiver gets: records and metrics are its own."""
    for key in COPIED:
        if key in payload:
            payload = {**payload, key: copy_plain(payload[key])}
    return payload


def first_error(
    calls: Iterable[Callable[[], object]],
    first: BaseException | None = None,
    interrupted: Callable[[], object] | None = None,
) -> BaseException | None:
    """Make all ``calls``, even if some raise; return ``first``, or else the first exception.

    A call that ends by Ctrl-C, or by a second signal, has ``interrupted`` called at once.
    """
    for call in calls:
        try:
            call()
        except BaseException as error:
            if interrupted is not None and isinstance(error, PASSED_ON):
                interrupted()
            first = first or error
    return first
