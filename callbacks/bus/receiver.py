"""Receivers: the methods of attached callbacks, as they are connected to signals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import perf_counter
from typing import Any

from .._util.plain_data import copy_plain
from .._util.signatures import keywords_read, not_run
from ..errors import CallbackError
from ..state import FLAGS, TrainerControl, TrainerState
from .attachment import Attachment, Position
from .faults import PASSED_ON, FaultPolicy, called

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
        *(
            "__weakref__",
            "attachment",
            "context",
            "event",
            "every",
            "faults",
            "is_flow",
            "is_observer",
            "method",
            "read",
        ),
    )

    def __init__(self, attachment: Attachment, event: str, context: Mapping[str, Any], faults: FaultPolicy) -> None:
        self.attachment: Attachment = attachment
        self.event: str = event
        self.context: Mapping[str, Any] = context
        self.faults: FaultPolicy = faults
        self.every: int = attachment.every if event in STEP_EVENTS else 1
        self.is_flow: bool = bool(getattr(attachment.callback, "is_flow", False))
        self.is_observer: bool = attachment.role == "observer"
        self.method: Any = getattr(attachment.callback, event, None)
        self.read: tuple[str, ...] | None = keywords_read(self.method, positional=3)

    def __call__(
        self, trainer: Any, *, args: Any, state: TrainerState, control: TrainerControl, **payload: Any
    ) -> TrainerControl | None:
        if self.every > 1 and state.global_step % self.every:
            return None
        attachment, is_observer, outer = self.attachment, self.is_observer, None
        before = [*control.__dict__.values()]  # a list takes a third of the time of a dict
        if is_observer:
            outer, called.value = called.value, attachment
        given: Mapping[str, Any] = {}
        if self.read is None or self.read:
            given = {**self.context, **payload} if payload else self.context
            if self.read is not None:
                given = {name: given[name] for name in self.read if name in given}
        start = perf_counter()
        try:
            returned = self.method(args, state, control, **given) if given else self.method(args, state, control)
        except BaseException as error:
            self.faults.failed(attachment, self.event, error)
            return None
        finally:
            if is_observer:
                called.value = outer
            attachment.seconds += perf_counter() - start
            attachment.calls += 1
        if attachment.failing and self.event in attachment.failing:
            attachment.recovered()
        if returned is not None and returned is not control:
            if hasattr(returned, "should_training_stop"):
                control.update_from(returned)
            elif not_run(returned):
                self.faults.failed(attachment, self.event, never_ran(attachment, self.event))
        if [*control.__dict__.values()] != before:
            self._note_reasons(control, dict(zip(vars(control), before, strict=False)))
        return control

    @property
    def position(self) -> Position:
        """The callback's position in the order of the calls."""
        return self.attachment.placed

    @property
    def may_steer(self) -> bool:
        """Whether processes must exchange its flags: an observer's have no effect, the flow's are equal everywhere."""
        return not (self.is_flow or self.is_observer)

    def _note_reasons(self, control: TrainerControl, before: Mapping[str, Any]) -> None:
        """Note the callback as the reason of what it has decided, unless it has given another."""
        name, own = self.attachment.name, control.reasons
        decided = [flag for flag in FLAGS if getattr(control, flag) and not before[flag]]
        decided += ["rate_factor"] * (control.rate_factor != before["rate_factor"])
        default = {flag: f"{name} at {self.event}" for flag in decided if own.get(flag) == before["reasons"].get(flag)}
        control.reasons = {**own, **default}
        if control.should_training_stop and not before["should_training_stop"] and not self.is_flow:
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
    payload: dict[str, Any],
) -> None:
    """Call the receivers of an event in order."""
    for receiver in receivers:
        # a method that is called by its name takes half of the time of an object that is called
        call = receiver.__call__ if type(receiver) is CallbackReceiver else receiver
        if payload:
            call(trainer, args=args, state=state, control=control, **own_copy(payload))
        else:
            call(trainer, args=args, state=state, control=control)


def own_copy(payload: dict[str, Any]) -> dict[str, Any]:
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
