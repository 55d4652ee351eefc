"""Watchdog of the ranks: the first error of a rank ends all ranks with that error.

Every rank writes its current activity into the shared store about once a second, and the first rank that fails writes
its error there. A failed rank exits; its connections break, so the collectives of the other ranks fail, and these ranks
read the first error from the store. If a rank still blocks (in a collective with a failed rank that has not exited),
the watchdog ends it.

The type of an error and the place where it was raised, never its text, show whether another rank caused it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import Store  # torch.distributed has it, untyped

from trackside.callbacks.errors import RankError

from .._compat import run_backward

logger: logging.Logger = logging.getLogger("trackside.trainer")

FAILURE = "failure"
PERIOD_S = 0.25
BEAT_S = 1.0
STILL_S = 3.0
"""Seconds without a write after which a rank counts as ended."""
GRACE_S = 30.0
"""Seconds after another rank's failure until the watchdog ends this process."""

ANSWER_S = 5.0
"""Seconds without an answer after which the store counts as unreachable."""

EXCHANGES = (run_backward.__module__, "torch.autograd.", "torch.distributed.", "torch.nn.parallel.distributed")
"""Modules whose functions wait for other ranks: another rank may have caused their errors."""

CALLS = ("torch._ops",)
"""Modules through which the functions of `EXCHANGES` call into torch."""


class Watchdog:
    """Watches the ranks of a group between `start` and `stop`.

    Args:
        store: The store shared by all ranks, on a separate connection.
        rank, world_size: Number of this rank, and number of ranks.
        timeout_s: Seconds that a collective waits for other ranks before it fails.

    Attributes:
        describe_progress: Returns the current activity of this rank, for errors on other ranks.
    """

    def __init__(self, store: Store, rank: int, world_size: int, timeout_s: float = float("inf")) -> None:
        self.store = store
        self.rank = rank
        self.world_size = world_size
        self.describe_progress: Callable[[], str] = str
        self.timeout_s = timeout_s
        self._collective = ""
        self._broken: BaseException | None = None
        self._progress = ""
        self._since_s = time.monotonic()
        self._failure: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def collective(self, name: str) -> Iterator[None]:
        """Return a context for a collective, whose name appears in errors of all ranks; not needed for gradients."""
        self._collective = name
        try:
            yield
        except Exception as error:
            self._broken = error
            raise
        self._collective = ""

    # -- the thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the watch."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="trackside-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the watch."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None

    def _watch(self) -> None:
        beats, next_beat = 0, 0.0
        while True:
            try:
                if time.monotonic() >= next_beat:
                    beats += 1
                    next_beat = time.monotonic() + BEAT_S
                    self._beat(beats)
                if self._failure is None and self.store.check([FAILURE]):
                    self._take_failure()
            except Exception:  # the store and its serving process have ended; a collective will fail
                return
            if self._stop.wait(PERIOD_S):
                return
            if self._failure is not None and self._failure["rank"] != self.rank:
                self._end_later()
                return

    def _beat(self, number: int) -> None:
        doing = self._what()
        if doing != self._progress:
            self._progress, self._since_s = doing, time.monotonic()
        beat = {"beat": number, "doing": doing, "host": socket.gethostname(), "pid": os.getpid()}
        self.store.set(f"beat/{self.rank}", json.dumps(beat))

    def _take_failure(self) -> None:
        self._failure = json.loads(self.store.get(FAILURE))
        self.store.add("heard", 1)

    def _end_later(self) -> None:
        """End this process if it is still watched after the grace period: it waits for a failed rank."""
        if self._stop.wait(GRACE_S):
            return
        logger.critical("%s; this process still waits in %s, and is ended", self._told(), self._what())
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _what(self) -> str:
        return f"{self._collective} in {self.describe_progress()}" if self._collective else self.describe_progress()

    # -- errors ---------------------------------------------------------------------------------------------------

    def report(self, error: BaseException) -> None:
        """Report an error of this rank to the others, and wait briefly so that they can read it."""
        if self._failure is not None:
            return
        text = "".join(traceback.format_exception(error))
        failure = {"rank": self.rank, "error": f"{type(error).__name__}: {error}", "doing": self._what(), "text": text}
        try:
            self._failure = within(ANSWER_S, lambda: self._tell(failure))
        except Exception as lost:
            logger.debug("the store is gone: %r", lost)

    def _tell(self, failure: dict[str, Any]) -> Any:
        """Write a failure into the store, unless there is an earlier one; return the first failure."""
        first = json.loads(self.store.compare_set(FAILURE, "", json.dumps(failure)))
        deadline = time.monotonic() + 4 * PERIOD_S
        while self.store.add("heard", 0) < self.world_size - 1 and time.monotonic() < deadline:
            time.sleep(PERIOD_S / 5)
        return first

    def explain(self, error: BaseException) -> BaseException:
        """Return the error of the rank that failed first, if it caused ``error``; else ``error``.

        Another rank caused an error that a named collective raised, or that has one of the types of torch.distributed.
        It caused an error of torch in a backward pass if a rank failed, ended, or did not join.
        """
        is_echo = _is_due_to(error, self._broken) or isinstance(error, dist.DistError)
        may_be_echo = type(error) is RuntimeError and _is_raised_in_exchange(error)
        if isinstance(error, RankError) or not (is_echo or may_be_echo):
            return error
        waited_in = f"{self._collective or 'the exchange of gradients'} in {self.describe_progress()}"
        is_late = time.monotonic() - self._since_s > self.timeout_s - 2 * BEAT_S  # progress is written once a beat
        if not self._wait_for_failure(4 * PERIOD_S):
            is_missed, missing = self._who_is_missing()
            if self._failure is None:
                told = RankError(f"rank {self.rank} could not finish {waited_in}: {missing} ({error})")
                return told if is_echo or is_missed or is_late else error
        if self._failure is None or self._failure["rank"] == self.rank:
            return error
        return RankError(f"{self._told()}\n\n{self._failure['text']}".rstrip())

    def _wait_for_failure(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until the thread reads a failure; return whether it did."""
        deadline = time.monotonic() + seconds
        while self._failure is None and time.monotonic() < deadline:
            time.sleep(PERIOD_S / 5)
        return self._failure is not None

    def _told(self) -> str:
        failure = self._failure or {}
        return f"rank {failure.get('rank')} failed first, in {failure.get('doing')}: {failure.get('error')}"

    def _who_is_missing(self) -> tuple[bool, str]:
        """Return whether ranks stopped writing, and their names, or else the activity of each rank."""
        try:
            before = within(ANSWER_S, self._beats)
            self._wait_for_failure(STILL_S)
            after = within(ANSWER_S, self._beats)
        except Exception:
            return True, "the process that serves the store (rank 0, or torchrun's agent) is gone, or out of reach"
        gone = [rank for rank, beat in after.items() if beat == before[rank]]
        if gone:
            return True, "; ".join(f"rank {rank} is gone, last seen in {_described(after[rank])}" for rank in gone)
        living = "; ".join(f"rank {rank} is in {_described(beat)}" for rank, beat in after.items())
        return False, f"all live on: {living}"

    def _beats(self) -> dict[int, dict[str, Any]]:
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        beats: dict[int, dict[str, Any]] = {}
        for rank in others:
            key = f"beat/{rank}"
            beats[rank] = json.loads(self.store.get(key)) if self.store.check([key]) else {"doing": "its start"}
        return beats


def within(seconds: float, ask: Callable[[], Any]) -> Any:
    """Return the result of ``ask`` within ``seconds``; torch's store itself waits minutes for an unreachable machine.

    Raises:
        TimeoutError: If it takes longer than ``seconds``.
        Exception: The exception of ``ask``.
    """
    answers: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no answer for {seconds:g} s") from None
    if error is not None:
        raise error
    return value


def _described(beat: dict[str, Any]) -> str:
    where = f" on {beat['host']}, process {beat['pid']}" if "host" in beat else ""
    return f"{beat['doing']}{where}"


def _is_raised_in_exchange(error: BaseException) -> bool:
    """Return whether ``error`` was raised in one of `EXCHANGES`, and not in a function that it called."""
    modules = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    innermost = next((module for module in reversed(modules) if module not in CALLS), "")
    return f"{innermost}.".startswith(EXCHANGES)


def _is_due_to(error: BaseException | None, cause: BaseException | None) -> bool:
    """Return whether ``error`` is ``cause``, or was raised because of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if error is cause:
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
