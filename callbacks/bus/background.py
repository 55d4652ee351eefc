"""Background callbacks: observers that are called on threads of their own, so that a tracker does not slow training.

A `BackgroundReceiver` hands every call to the `CallbackThread` of its callback, which makes the calls one after the
other, in the order of the events. Training waits for it only

- at the end of a run and when it crashes, until all calls are done;
- at an evaluation, a save and the events in the callback's ``waits_at``. Except for the latter, all waits of a run
  together are kept below `WAIT_SHARE` of its time; calls that are not done by then are done later, still in order.

A call that takes longer than the attachment's ``timeout_s`` cannot be stopped, since a thread cannot; its callback is
detached and the thread is left behind. When as many calls wait as the attachment's ``queue`` says, steps and records
are dropped and counted, or, with ``when_full="wait"``, training waits for room; for all other events it does so anyway.
Failures are counted on the training thread, so that the fault policy is that of every other callback.

The end of a run waits `END_WAIT_S`, or ``timeout_s`` if that is longer, says meanwhile for how many calls, and names
those that were not delivered. Ctrl-C ends these waits, for all callbacks.

A checkpoint that a call was given (on_save, on_load) is neither deleted nor replaced until the call is done or has
timed out. One callback holds at most `HELD_LIMIT` checkpoints: the next save waits for the oldest of them, and a
warning says so once.

The callback gets snapshots of state and control, as they were when the event was sent; flags that it sets have no
effect. The trainer that it gets is a `view.TrainerView`; what it logs is a record of the step that it heard of, which
the thread of the run writes at its next event. What else it gets by keyword, such as the model, is the live object: a
callback that reads it while training goes on names the event in ``waits_at``.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from .._util.signatures import not_run
from ..errors import CallbackError, CallbackTimeoutError
from ..state import TrainerControl, TrainerState
from .attachment import Attachment
from .callback_thread import Call, CallbackThread, tally
from .faults import FaultPolicy, called
from .receiver import STEP_EVENTS, CallbackReceiver, never_ran
from .view import BackgroundCall, TrainerView, current_call

logger: logging.Logger = logging.getLogger("trackside.callbacks")

DROPPABLE = STEP_EVENTS | {"on_prediction_step"}
WAITS_SHORT = frozenset({"on_evaluate", "on_predict", "on_save"})
WAITS_LONG = frozenset({"on_exception", "on_train_end"})
ALWAYS_CONNECTED = WAITS_LONG | {"on_train_begin", "on_evaluate"}
"""Without on_save: a receiver of it makes commits synchronous. A save waits when it asks for the callback's state."""


FIRST_TOLD_S = 2.0
"""After so many seconds of waiting at the end of a run that is told, and then each time after twice as many."""


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
                    _call_as, attachment, self.event, self.method, thread.leave, *seen, **self.context, **payload
                )
                thread.submit(
                    Call(self.event, make, is_droppable=self.event in DROPPABLE, holds=payload.get("checkpoint"))
                )
            done = self._wait()
            self._settle()
            if self.event == "on_train_end":
                self._end_run(done)
        finally:
            attachment.seconds += perf_counter() - start

    def catch_up(self) -> None:
        """Wait until the calls before the end of the run are done, and write what they logged; see `__call__`."""
        start = perf_counter()
        try:
            self._wait_to_the_end()
            self._settle()
        finally:
            self.attachment.seconds += perf_counter() - start

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
            return self._wait_to_the_end()
        if self.event in getattr(self.attachment.callback, "waits_at", ()):
            return self.thread.wait(self.thread.timeout_s)
        if self.event in WAITS_SHORT or not self.thread.is_in_run:
            return self.thread.flush()
        return False

    def _wait_to_the_end(self) -> bool:
        """Wait until all calls are done or the time for that is over, and say for how many; return whether all are."""
        thread, pause_s = self.thread, FIRST_TOLD_S
        while not thread.wait(min(pause_s, thread.left_at_end_s())):
            left_s = thread.left_at_end_s()
            if thread.is_late or left_s <= 0:
                return False
            told = (len(thread.waiting()), self.attachment.name, tally(thread.waiting()), left_s)
            logger.warning("waiting for %d events of the callback %r: %s; for at most %.0f s, or until Ctrl-C", *told)
            pause_s *= 2
        return True

    def _end_run(self, done: bool) -> None:
        attachment, thread = self.attachment, self.thread
        undelivered, is_given_up = tally(thread.waiting()), thread.is_given_up
        thread.close()
        if attachment.detached_after is not None:
            return
        if not done:
            since = "and is not waited for" if is_given_up else f"after {thread.end_wait_s:g} s"
            told = (attachment.name, since, undelivered)
            logger.warning("the callback %r is still working %s; not delivered yet: %s", *told)
        if thread.dropped:
            left_out = tally(thread.dropped.elements())
            logger.warning(
                "the callback %r could not keep up with queue=%d; left out: %s", attachment.name, thread.limit, left_out
            )

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
            logger.warning(
                "the callback %r cannot keep up: %d calls wait; steps and records are left out (see queue, when_full)",
                attachment.name,
                thread.limit,
            )
        attachment.dropped = thread.dropped.total()
        outer, called.value = called.value, attachment
        try:
            for task in thread.left():
                task()
        finally:
            called.value = outer


def undo(attachment: Attachment, args: Any, state: TrainerState, context: Mapping[str, Any]) -> None:
    """Have a callback that leaves within a run put back what it has changed; one with a thread, on that, in its turn.

    The run waits for it, but calls no method of one that was detached, which may hang, on its thread.
    """

    def undone(args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        try:
            attachment.callback.undo(args, state, **kwargs)
        except Exception as error:  # nothing asks for the outcome any more
            logger.warning("the callback %r failed in undo: %r", attachment.name, error)

    if (thread := attachment.thread) is None:
        attachment.callback.undo(args, state, **context)
    elif attachment.detached_after is None:
        seen = (args, StateSnapshot.of(state), TrainerControl())
        make = functools.partial(_call_as, attachment, "undo", undone, thread.leave, *seen, **context)
        thread.submit(Call("undo", make))
        thread.wait(thread.timeout_s)


def _call_as(
    attachment: Attachment,
    event: str,
    method: Any,
    leave: Callable[[Callable[[], None]], None],
    args: Any,
    state: TrainerState,
    control: TrainerControl,
    /,
    *,
    trainer: Any,
    **kwargs: Any,
) -> None:
    """Call a method of an observer, on its thread, where Ctrl-C never arrives, with a view of the trainer.

    Raises:
        CallbackError: If it raises KeyboardInterrupt, which ends a run only from the main thread.
    """
    called.value = attachment
    call = BackgroundCall(f"the callback {attachment.name!r} at {event}", trainer, state, control, leave)
    current_call.value = call
    try:
        returned = method(args, state, control, trainer=TrainerView(call), **kwargs)
    except KeyboardInterrupt as error:
        raise CallbackError(f"KeyboardInterrupt was raised in {event}, on a thread of its own") from error
    finally:
        current_call.value = None
    if not_run(returned):
        raise never_ran(attachment, event)
