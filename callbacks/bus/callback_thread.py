"""Callback threads: the calls of one callback, queued and made one after the other on a thread of its own."""

from __future__ import annotations

import math
import os
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

from ..errors import CallbackTimeoutError
from ..types import WhenFull

QUEUE_LIMIT = 10_000
"""The longest queue of calls, unless the attachment has another."""

WAIT_SHARE = 0.005
"""The largest share of a run's time that all waits for one callback may take together."""

SHORT_WAIT_S = 0.02
"""A wait of this length is always allowed."""

HELD_LIMIT = 2
"""The most checkpoints that one callback holds at once; the next save waits for the oldest of them."""

END_WAIT_S = 60.0
"""The longest that the end of a run waits for one callback, unless a single call may take longer."""


@dataclass
class Call:
    """One call of a callback's method; ``make`` makes it.

    Attributes:
        holds: The checkpoint that the method was given; it is neither deleted nor replaced until the call is done.
    """

    event: str
    make: Callable[[], object]
    is_droppable: bool = False
    holds: str | None = None

    def __str__(self) -> str:
        return self.event if self.holds is None else f"{self.event} ({os.path.basename(self.holds)})"


@dataclass
class Outcome:
    """How long a call took, and what it raised."""

    event: str
    seconds: float
    error: BaseException | None


class CallbackThread:
    """Makes the calls of one callback, one after the other, on a thread of its own.

    The thread is started by the first call and ends after `close` when all calls are done.

    Attributes:
        timeout_s: A call that takes longer is abandoned.
        limit: The most calls that wait.
        when_full: "drop" leaves out steps and records when so many calls wait; all other calls, and with "wait" these
            too, are queued when there is room.
        longest: The most calls that have waited.
        dropped: How many calls of each event were left out.
        is_abandoned: Whether the callback was abandoned; no further call is made.
    """

    def __init__(self, name: str, timeout_s: float, limit: int = QUEUE_LIMIT, when_full: WhenFull = "drop") -> None:
        self.name = name
        self.timeout_s = timeout_s
        self.limit = limit
        self.when_full: WhenFull = when_full
        self.longest: int = 0
        self.dropped: Counter[str] = Counter()
        self.is_abandoned: bool = False
        self._changed = threading.Condition()
        self._calls: deque[Call] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._left: list[Callable[[], None]] = []
        self._running: Call | None = None
        self._began_s = 0.0
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._run_began_s: float | None = None
        self._end_began_s: float | None = None
        self._waited_s = 0.0

    # -- called on the training thread ----------------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """Queue ``call``, or drop it; wait for room before, unless a call times out."""
        if len(self._calls) >= self.limit and threading.current_thread() is not self._thread:
            if call.is_droppable and self.when_full == "drop":
                self.dropped[call.event] += 1
                return
            self._wait_while(lambda: len(self._calls) >= self.limit, float("inf"))
        with self._changed:
            if self.is_abandoned:
                return
            self._calls.append(call)
            self.longest = max(self.longest, len(self._calls))
            self._is_closing = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"trackside-{self.name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def is_in_run(self) -> bool:
        """Whether a run is in progress, which waiting would slow."""
        return self._run_began_s is not None

    def begin_run(self) -> None:
        """Start the clock of the run whose time waits may take a share of."""
        self._run_began_s, self._end_began_s, self._waited_s = perf_counter(), None, 0.0

    @property
    def end_wait_s(self) -> float:
        """The longest that the end of a run waits."""
        return max(END_WAIT_S, self.timeout_s)

    def left_at_end_s(self) -> float:
        """Return how long the end of the run may wait from now; its first call starts the clock."""
        self._end_began_s = perf_counter() if self._end_began_s is None else self._end_began_s
        return self._end_began_s + self.end_wait_s - perf_counter()

    def give_up(self) -> None:
        """Let the end of the run wait no longer."""
        self._end_began_s = -math.inf

    @property
    def is_given_up(self) -> bool:
        """Whether the end of the run waits no longer."""
        return self._end_began_s == -math.inf

    def flush(self) -> bool:
        """Wait until all calls are done or the allowed share of the run is used; return whether all are done."""
        if self._run_began_s is None:
            return self.wait(END_WAIT_S)
        start = perf_counter()
        allowed_s = (start - self._run_began_s) * WAIT_SHARE - self._waited_s
        done = self.wait(max(allowed_s, SHORT_WAIT_S if self._waited_s < SHORT_WAIT_S else 0.0))
        self._waited_s += perf_counter() - start
        return done

    def held(self) -> list[str]:
        """Return the checkpoints that calls work on, or will; without that of a call that has timed out."""
        with self._changed:
            return self._held()

    def wait_until_free(self, checkpoint: str) -> None:
        """Wait until no call holds ``checkpoint``, or a call times out."""
        self._wait_while(lambda: checkpoint in self._held(), float("inf"))

    def wait_for_turn(self) -> bool:
        """Wait until a further checkpoint may be held, or a call times out; return whether that took a wait."""
        start = perf_counter()
        self._wait_while(lambda: len(self._held()) >= HELD_LIMIT, float("inf"))
        return perf_counter() - start > SHORT_WAIT_S

    def waiting(self) -> list[str]:
        """Return the calls that are not done, the running one first."""
        with self._changed:
            return [str(call) for call in self._unfinished()]

    @property
    def is_late(self) -> bool:
        """Whether the running call has timed out, so that the callback will be abandoned with all calls that wait."""
        return self._running is not None and perf_counter() - self._began_s > self.timeout_s

    def _unfinished(self) -> list[Call]:
        return [*self._calls] if self._running is None else [self._running, *self._calls]

    def _held(self) -> list[str]:
        return [] if self.is_late else [call.holds for call in self._unfinished() if call.holds is not None]

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds``, or until a call times out; return whether all calls are done."""
        return self._wait_while(lambda: bool(self._calls or self._running), seconds)

    def _wait_while(self, is_busy: Callable[[], bool], seconds: float) -> bool:
        deadline = perf_counter() + seconds
        with self._changed:
            while is_busy():
                give_up = min(deadline, self._began_s + self.timeout_s) if self._running else deadline
                remaining_s = give_up - perf_counter()
                if remaining_s <= 0:
                    return False
                self._changed.wait(min(remaining_s, threading.TIMEOUT_MAX))
        return True

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes since the last call of this method; that of a hanging call is a CallbackTimeoutError."""
        with self._changed:
            found = list(self._outcomes)
            self._outcomes.clear()
            running, took_s = self._running, perf_counter() - self._began_s
            undelivered = tally(map(str, self._calls))
        if running is not None and took_s > self.timeout_s and not self.is_abandoned:
            error = CallbackTimeoutError(self.name, running.event, self.timeout_s, undelivered)
            found.append(Outcome(running.event, took_s, error))
        return found

    def left(self) -> list[Callable[[], None]]:
        """Return what calls have left to the thread of the run since the last call of this method."""
        if not self._left:
            return []
        with self._changed:
            found, self._left = self._left, []
        return found

    def abandon(self) -> None:
        """Drop the calls that wait, and make no further ones."""
        with self._changed:
            self.dropped.update(call.event for call in self._calls)
            self.is_abandoned = self._is_closing = True
            self._calls.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread when all calls are done; a further call starts a new one."""
        with self._changed:
            self._is_closing = True
            self._run_began_s = self._end_began_s = None
            self._changed.notify_all()

    # -- on the thread itself -------------------------------------------------------------------------------------

    def leave(self, task: Callable[[], None]) -> None:
        """Leave something for the thread of the run to do."""
        with self._changed:
            if not self.is_abandoned:
                self._left.append(task)

    def _work(self) -> None:
        while (call := self._next()) is not None:
            start = perf_counter()
            error: BaseException | None = None
            try:
                call.make()
            except BaseException as raised:
                error = raised
                _forget_variables(raised)
            outcome = Outcome(call.event, perf_counter() - start, error)
            del call
            with self._changed:
                self._outcomes.append(outcome)
                self._running = None  # it holds the trainer, and a checkpoint
                self._changed.notify_all()

    def _next(self) -> Call | None:
        with self._changed:
            while not self._calls:
                if self._is_closing:
                    self._thread = None
                    return None
                self._changed.wait()
            call = self._calls.popleft()
            self._running, self._began_s = call, perf_counter()
            self._changed.notify_all()  # the time of this call counts from here: `wait` must look again
            return call


def _forget_variables(error: BaseException) -> None:
    """Clear what the tracebacks of an error and of those before it hold: the trainer, which could never be collected.

    A thread holds its outcomes until the run asks for them, and the trainer is what ends the thread.
    """
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        if (each := todo.pop()) is not None and id(each) not in seen:
            seen.add(id(each))
            traceback.clear_frames(each.__traceback__)
            todo += each.__cause__, each.__context__


def give_up_all(threads: Iterable[CallbackThread]) -> None:
    """Let the end of the run wait for no callback any longer."""
    for thread in list(threads):
        thread.give_up()


def tally(calls: Iterable[str]) -> str:
    """Return calls as text, those of one name together.

    Example:
        >>> tally(["on_log", "on_save (checkpoint-4)", "on_log"])
        'on_log (2), on_save (checkpoint-4)'
    """
    return ", ".join(name if number == 1 else f"{name} ({number})" for name, number in Counter(calls).items())
