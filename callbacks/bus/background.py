"""Background callbacks: observers that are called on threads of their own, so that a tracker does not slow training.

A `BackgroundReceiver` hands every call to the `CallbackThread` of its callback, which makes the calls one after the
other, in the order of the events. Training waits for it only

- at the end of a run and when it crashes, until all calls are done;
- at an evaluation, a save and the events in the callback's ``waits_at``. Except for the latter, all waits of a run
  together are kept below `WAIT_SHARE` of its time; calls that are not done by then are done later, still in order.

A call that takes longer than the attachment's ``timeout_s`` cannot be stopped, since a thread cannot; its callback is
detached and the thread is left behind. When `QUEUE_LIMIT` calls wait, further steps and records are dropped and
counted. Failures are counted on the training thread, so that the fault policy is that of every other callback.

A checkpoint that a call was given (on_save, on_load) is neither deleted nor replaced until the call is done or has
timed out. One callback holds at most `HELD_LIMIT` checkpoints: the next save waits for the oldest of them, and a
warning says so once.

The callback gets snapshots of state and control, as they were when the event was sent; flags that it sets have no
effect. What it gets by keyword, such as the model, is the live object: a callback that reads it while training goes on
names the event in ``waits_at``.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Any

from .._util.signatures import not_run
from ..errors import CallbackError, CallbackTimeoutError
from ..state import TrainerControl, TrainerState
from .attachment import Attachment
from .callback_thread import END_WAIT_S, Call, CallbackThread
from .faults import FaultPolicy, called
from .receiver import STEP_EVENTS, CallbackReceiver, never_ran

logger: logging.Logger = logging.getLogger("trackside.callbacks")

DROPPABLE = STEP_EVENTS | {"on_prediction_step"}
WAITS_SHORT = frozenset({"on_evaluate", "on_predict", "on_save"})
WAITS_LONG = frozenset({"on_exception", "on_train_end"})
ALWAYS_CONNECTED = WAITS_LONG | {"on_train_begin", "on_evaluate"}
"""Without on_save: a receiver of it makes commits synchronous. A save waits when it asks for the callback's state."""


class StateSnapshot(TrainerState):
    """A state as it was at some moment; its log_history is copied only when it is read.

    The history grows only at its end, so that its length is all that needs to be kept.
    """

    @classmethod
    def of(cls, state: TrainerState) -> StateSnapshot:
        """Return ``state`` as it is now."""
        snapshot = cls.__new__(cls)
        vars(snapshot).update(vars(state))
        snapshot.log_history = state.log_history
        return snapshot

    @property
    def log_history(self) -> list[dict[str, Any]]:
        """The records at the time of the snapshot."""
        history: list[dict[str, Any]] = vars(self)["_history"][: vars(self)["_length"]]
        return history

    @log_history.setter
    def log_history(self, value: list[dict[str, Any]]) -> None:
        vars(self).update(_history=value, _length=len(value))


class BackgroundReceiver(CallbackReceiver):
    """One event for one callback that runs in the background.

    Args:
        thread: The thread that makes the calls.
        is_heard: Whether the callback is called at this event; otherwise training only waits for earlier calls.
    """

    __slots__ = ("is_heard", "thread")

    def __init__(
        self,
        attachment: Attachment,
        event: str,
        context: Mapping[str, Any],
        faults: FaultPolicy,
        *,
        thread: CallbackThread,
        is_heard: bool,
    ) -> None:
        super().__init__(attachment, event, context, faults)
        self.thread: CallbackThread = thread
        self.is_heard: bool = is_heard

    def __call__(
        self, trainer: Any, *, args: Any, state: TrainerState, control: TrainerControl, **payload: Any
    ) -> None:
        if self.every > 1 and state.global_step % self.every:
            return
        attachment, thread = self.attachment, self.thread
        start = perf_counter()
        try:
            if self.event == "on_train_begin":
                thread.begin_run()
            if self.is_heard:
                self._take_turn(payload)
                attachment.calls += 1
                seen = (args, StateSnapshot.of(state), copy.copy(control))
                make = functools.partial(
                    _call_as, attachment, self.event, self.method, *seen, **self.context, **payload
                )
                thread.submit(
                    Call(self.event, make, is_droppable=self.event in DROPPABLE, holds=payload.get("checkpoint"))
                )
            done = self._wait()
            self._settle()
            if self.event == "on_train_end":
                thread.close()
                if not done and attachment.detached_after is None:
                    logger.warning("the run ends while the callback %r is still working", attachment.name)
        finally:
            attachment.seconds += perf_counter() - start

    def _take_turn(self, payload: Mapping[str, Any]) -> None:
        """Wait, before a call is given a checkpoint, while the callback still works on several earlier ones."""
        if "checkpoint" in payload and self.thread.wait_for_turn():
            self._settle()
            if not self.attachment.is_behind:
                logger.warning("the callback %r works on earlier checkpoints; saves wait for it", self.attachment.name)
            self.attachment.is_behind = True

    def _wait(self) -> bool:
        """Wait, if this event asks for it, and return whether all calls are done."""
        if self.event in WAITS_LONG:
            return self.thread.wait(END_WAIT_S)
        if self.event in getattr(self.attachment.callback, "waits_at", ()):
            return self.thread.wait(self.thread.timeout_s)
        if self.event in WAITS_SHORT or not self.thread.is_in_run:
            return self.thread.flush()
        return False

    def _settle(self) -> None:
        """Count, on the training thread, the outcomes of a callback's calls; stop its thread when it was detached.

        Raises:
            Exception: What a call raised, if the callback's policy is to raise.
        """
        attachment, thread = self.attachment, self.thread
        for outcome in thread.outcomes():
            attachment.background_s += outcome.seconds
            if attachment.detached_after is not None:
                continue
            if isinstance(outcome.error, CallbackTimeoutError):
                thread.abandon()
            if outcome.error is not None:
                self.faults.failed(attachment, outcome.event, outcome.error)
            elif outcome.event in attachment.failing:
                attachment.recovered()
        if attachment.detached_after is not None:
            thread.abandon()
        elif thread.dropped and not attachment.dropped:
            logger.warning("the callback %r cannot keep up; steps and records are left out", attachment.name)
        attachment.dropped = thread.dropped


def _call_as(attachment: Attachment, event: str, method: Any, *args: Any, **kwargs: Any) -> None:
    """Call a method of an observer, on its thread, where Ctrl-C never arrives.

    Raises:
        CallbackError: If it raises KeyboardInterrupt, which ends a run only from the main thread.
    """
    called.set(attachment)
    try:
        returned = method(*args, **kwargs)
    except KeyboardInterrupt as error:
        raise CallbackError(f"KeyboardInterrupt was raised in {event}, on a thread of its own") from error
    if not_run(returned):
        raise never_ran(attachment, event)
