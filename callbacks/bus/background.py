"""Observers on a thread of their own: what a tracker does never holds up training.

`BackgroundSlot` stands where a `Slot` would: it hands every call to the attachment's `Worker` and goes on. The worker
makes the calls one after the other, in the order of the events. Training waits for it only

- at the end of a run and when it crashes, until all is done;
- at an evaluation, a save and the events in the callback's ``waits_at``. Except for the latter, all waits of a run
  together are kept below `WAIT_SHARE` of its time; what is not done by then is done later, still in order.

A call that takes longer than the attachment's ``timeout_s`` cannot be stopped, since no thread can; its callback is
detached and the thread is left behind. When `QUEUE_LIMIT` calls wait, further steps and records are dropped and
counted. Failures are noted on the training thread, so that the fault policy is that of every other callback.

The callback gets snapshots of state and control, as they were when the event was sent; flags that it sets have no
effect. What it gets by keyword, such as the model, is the live object: a callback that reads it while training goes on
names the event in ``waits_at``.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..errors import CallbackTimeoutError
from ..events import EVENTS
from ..state import TrainerControl, TrainerState
from .callback_thread import END_WAIT_S, Call, Worker
from .receiver import STEP_EVENTS, Slot

if TYPE_CHECKING:
    from .attachment import Attachment
    from .dispatcher import Dispatcher

logger = logging.getLogger("trackside.callbacks")

DROPPABLE = STEP_EVENTS | {"on_prediction_step"}
WAITS_A_LITTLE = frozenset({"on_evaluate", "on_predict", "on_save"})
WAITS_LONG = frozenset({"on_exception", "on_train_end"})
ALWAYS_CONNECTED = WAITS_LONG | {"on_train_begin", "on_evaluate"}
"""Not on_save: who listens to it makes commits synchronous. A save waits when it asks for the callback's state."""


class StateSnapshot(TrainerState):
    """A state as it was at some moment; its log_history is copied only when it is read.

    The history grows only at its end, so that its length is all that needs to be kept.
    """

    @classmethod
    def of(cls, state: TrainerState) -> StateSnapshot:
        """Return ``state`` as it is now."""
        snapshot = cls.__new__(cls)
        vars(snapshot).update(vars(state))
        history = state.log_history
        vars(snapshot).update(_history=history, _length=len(history))
        return snapshot

    @property
    def log_history(self) -> list[dict[str, Any]]:
        """The records that there were."""
        history: list[dict[str, Any]] = vars(self)["_history"][: vars(self)["_length"]]
        return history

    @log_history.setter
    def log_history(self, value: list[dict[str, Any]]) -> None:
        vars(self).update(_history=value, _length=len(value))


class BackgroundSlot(Slot):
    """One event for one callback that runs in the background, as the receiver that is connected to the signal.

    Args:
        is_heard: Whether the callback wants to hear it; otherwise training waits for what came before, if it is time.
    """

    __slots__ = ("is_heard",)

    def __init__(self, dispatcher: Dispatcher, attachment: Attachment, event: str, place: int, is_heard: bool) -> None:
        super().__init__(dispatcher, attachment, event, place)
        self.is_heard = is_heard

    def __call__(
        self, trainer: Any, *, args: Any, state: TrainerState, control: TrainerControl, **payload: Any
    ) -> None:
        if self.every > 1 and state.global_step % self.every:
            return
        attachment, worker = self.attachment, self.attachment.worker
        assert worker is not None
        start = perf_counter()
        try:
            if self.event == "on_train_begin":
                worker.begin_run()
            if self.is_heard:
                attachment.calls += 1
                worker.submit(self._call(args, state, control, payload))
            done = self._wait(worker)
            settle(self.dispatcher, attachment)
            if self.event == "on_train_end":
                worker.close()
                if not done and attachment.detached_after is None:
                    logger.warning("the run ends while the callback %r is still at work", attachment.name)
        finally:
            attachment.seconds += perf_counter() - start

    def _call(self, args: Any, state: TrainerState, control: TrainerControl, payload: dict[str, Any]) -> Call:
        return Call(
            event=self.event,
            method=self.method,
            args=args,
            state=StateSnapshot.of(state),
            control=copy.copy(control),
            keywords={**self.dispatcher.context, **payload},
            is_droppable=self.event in DROPPABLE,
        )

    def _wait(self, worker: Worker) -> bool:
        """Wait, if it is time, and return whether all is done."""
        if self.event in WAITS_LONG:
            return worker.wait(END_WAIT_S)
        if self.event in getattr(self.attachment.callback, "waits_at", ()):
            return worker.wait(worker.timeout_s)
        if self.event in WAITS_A_LITTLE or not worker.is_in_run:
            return worker.flush()
        return False


def background_slots(
    dispatcher: Dispatcher, attachment: Attachment, heard: Collection[str], place: int
) -> list[BackgroundSlot]:
    """Return the receivers for the events that a callback wants to hear, and for those at which it is waited for."""
    return [
        BackgroundSlot(dispatcher, attachment, event, place, event in heard)
        for event in EVENTS
        if event in heard or event in ALWAYS_CONNECTED
    ]


def settle(dispatcher: Dispatcher, attachment: Attachment) -> None:
    """Note, on the training thread, how the calls of a callback went; detach it when it is time.

    Raises:
        Exception: What a call raised, if the callback's policy is to raise.
    """
    worker = attachment.worker
    assert worker is not None
    for outcome in worker.outcomes():
        attachment.background_s += outcome.seconds
        if attachment.detached_after is not None:
            continue
        if isinstance(outcome.error, CallbackTimeoutError):
            worker.abandon()
        if outcome.error is not None:
            dispatcher.failed(attachment, outcome.event, outcome.error)
        elif outcome.event in attachment.failing:
            attachment.recovered()
    if attachment.detached_after is not None:
        worker.abandon()
    elif worker.dropped and not attachment.dropped:
        logger.warning("the callback %r cannot keep up; steps and records are left out", attachment.name)
    attachment.dropped = worker.dropped
