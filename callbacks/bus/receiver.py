"""Receivers: the methods of attached callbacks, as they are connected to signals."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from ..state import FLAGS, TrainerControl, TrainerState
from .attachment import Attachment
from .faults import FaultPolicy, called

STEP_EVENTS = frozenset(
    {"on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"}
)
"""The events to which ``every`` applies; all others are rare, or must not be missed."""


class CallbackReceiver:
    """One method of one callback.

    Args:
        attachment: The callback.
        event: The event, and the name of the method.
        position: The callback's position in the order of the calls.
        context: What the method gets by keyword beside the payload; the dispatcher's own, which it keeps up to date.
        faults: Called with what the method raises.
    """

    __slots__ = (
        *("__weakref__", "attachment", "context", "event", "every", "faults", "is_flow", "is_observer", "method"),
        "position",
    )

    def __init__(
        self, attachment: Attachment, event: str, position: int, context: Mapping[str, Any], faults: FaultPolicy
    ) -> None:
        self.attachment: Attachment = attachment
        self.event: str = event
        self.position: int = position
        self.context: Mapping[str, Any] = context
        self.faults: FaultPolicy = faults
        self.every: int = attachment.every if event in STEP_EVENTS else 1
        self.is_flow: bool = bool(getattr(attachment.callback, "is_flow", False))
        self.is_observer: bool = attachment.role == "observer"
        self.method: Any = getattr(attachment.callback, event, None)

    def __call__(
        self, trainer: Any, *, args: Any, state: TrainerState, control: TrainerControl, **payload: Any
    ) -> TrainerControl | None:
        if self.every > 1 and state.global_step % self.every:
            return None
        attachment = self.attachment
        before = dict(vars(control))
        token = called.set(attachment) if self.is_observer else None
        start = perf_counter()
        try:
            returned: TrainerControl | None = self.method(args, state, control, **self.context, **payload)
        except BaseException as error:
            self.faults.failed(attachment, self.event, error)
            return None
        finally:
            if token is not None:
                called.reset(token)
            attachment.seconds += perf_counter() - start
            attachment.calls += 1
        if attachment.failing and self.event in attachment.failing:
            attachment.recovered()
        if returned is not None and returned is not control and hasattr(returned, "should_training_stop"):
            control.update_from(returned)
        if vars(control) != before:
            self._note_reasons(control, before)
        return control

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
