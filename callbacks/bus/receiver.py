"""One method of one attached callback, as it is connected to a signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..state import FLAGS, TrainerControl, TrainerState

if TYPE_CHECKING:
    from .attachment import Attachment
    from .dispatcher import Dispatcher

STEP_EVENTS = frozenset(
    {"on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_log"}
)
"""The events that ``every=`` thins out; all others are rare, or must not be missed."""


class Slot:
    """One method of one callback, as the receiver that is connected to the signal."""

    __slots__ = ("__weakref__", "attachment", "dispatcher", "event", "every", "is_flow", "method", "place")

    def __init__(self, dispatcher: Dispatcher, attachment: Attachment, event: str, place: int) -> None:
        self.dispatcher = dispatcher
        self.attachment = attachment
        self.event = event
        self.place = place
        self.every = attachment.every if event in STEP_EVENTS else 1
        self.is_flow = bool(getattr(attachment.callback, "is_flow", False))
        self.method: Callable[..., Any] = getattr(attachment.callback, event, _nothing)

    def __call__(
        self, trainer: Any, *, args: Any, state: TrainerState, control: TrainerControl, **payload: Any
    ) -> TrainerControl | None:
        if self.every > 1 and state.global_step % self.every:
            return None
        attachment = self.attachment
        before = dict(vars(control))
        start = perf_counter()
        try:
            returned: TrainerControl | None = self.method(args, state, control, **self.dispatcher.context, **payload)
        except Exception as error:
            self.dispatcher.failed(attachment, self.event, error)
            return None
        finally:
            attachment.seconds += perf_counter() - start
            attachment.calls += 1
        if attachment.failing and self.event in attachment.failing:
            attachment.recovered()
        if returned is not None and returned is not control and hasattr(returned, "should_training_stop"):
            control.take(returned)
        if vars(control) != before:
            self._note_reasons(control, before)
        return control

    def _note_reasons(self, control: TrainerControl, before: Mapping[str, Any]) -> None:
        """Note who set the flags that were not set before."""
        name = self.attachment.name
        for flag in FLAGS:
            if getattr(control, flag) and not before[flag]:
                control.ask(flag, f"{name} at {self.event}")
        if control.should_training_stop and not before["should_training_stop"] and not self.is_flow:
            control.stop(f"{name} asked for it at {self.event}")


def _nothing(args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
    """Stand in for a method that the callback does not have."""
