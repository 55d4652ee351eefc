"""The watch over the other processes: the first error of any of them is everybody's, and nobody waits in vain.

Every process writes into the shared store what it is doing, about once a second, and the first one that fails writes
its error there. A process that fails leaves; its connections break, and with them the collectives of the others, which
then read in the store whose error came first. Where that does not free a process (a collective that waits for somebody
who failed but lives on), the watchdog ends it.
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
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import Store  # torch.distributed has it, untyped

from trackside.callbacks.errors import RankError

logger = logging.getLogger("trackside.trainer")

FAILURE = "failure"
PERIOD_S = 0.25
BEAT_S = 1.0
STILL_S = 3.0
"""A process that wrote nothing for so long is gone."""
GRACE_S = 30.0
"""So long after another process failed this one may still go on, before the watchdog ends it."""

ANSWER_S = 5.0
"""A store that gives no answer for so long is out of reach."""

COLLECTIVE_ERRORS = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
    "Timed out",
    "pair closure",
    "Broken pipe",
    "store",
    "socket",
)


class Watchdog:
    """Watches over the processes of a group while it is entered.

    Args:
        store: Shared by all processes, on a connection of the watchdog's own.
        rank, world_size: Which process this is, of how many.

    Attributes:
        describe_progress: Says what this process does, for the others to read in an error.
        waits_in: The collective that this process is in, by name; empty in one of DDP's own, or in none.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.store = store
        self.rank = rank
        self.world_size = world_size
        self.describe_progress: Callable[[], str] = str
        self.waits_in = ""
        self._failure: dict[str, Any] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- the thread -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="trackside-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
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
            except Exception:  # the store is gone, and with it the process that served it; a collective will tell
                return
            if self._stop.wait(PERIOD_S):
                return
            if self._failure is not None and self._failure["rank"] != self.rank:
                self._end_later()
                return

    def _beat(self, number: int) -> None:
        beat = {"beat": number, "doing": self._what(), "host": socket.gethostname(), "pid": os.getpid()}
        self.store.set(f"beat/{self.rank}", json.dumps(beat))

    def _take_failure(self) -> None:
        self._failure = json.loads(self.store.get(FAILURE))
        self.store.add("heard", 1)

    def _end_later(self) -> None:
        """End this process if it is still under watch after the time of grace: it waits for who will not come."""
        if self._stop.wait(GRACE_S):
            return
        logger.critical("%s; this process still waits in %s, and is ended", self._told(), self._what())
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def _what(self) -> str:
        return f"{self.waits_in} in {self.describe_progress()}" if self.waits_in else self.describe_progress()

    # -- errors ---------------------------------------------------------------------------------------------------

    def report(self, error: BaseException) -> None:
        """Tell the others of an error of this process, and give them a moment to hear of it."""
        if self._failure is not None:
            return
        text = "".join(traceback.format_exception(error))
        failure = {"rank": self.rank, "error": f"{type(error).__name__}: {error}", "doing": self._what(), "text": text}
        try:
            self._failure = within(ANSWER_S, lambda: self._tell(failure))
        except Exception as lost:
            logger.debug("the store is gone: %r", lost)

    def _tell(self, failure: dict[str, Any]) -> Any:
        """Put a failure into the store, unless another came first; return the one that did."""
        first = json.loads(self.store.compare_set(FAILURE, "", json.dumps(failure)))
        deadline = time.monotonic() + 4 * PERIOD_S
        while self.store.add("heard", 0) < self.world_size - 1 and time.monotonic() < deadline:
            time.sleep(PERIOD_S / 5)
        return first

    def explain(self, error: BaseException) -> BaseException:
        """Return the error of the process that failed first, if ``error`` is only what came of it; else ``error``."""
        if isinstance(error, RankError) or not _is_of_collective(error):
            return error
        waited_in = f"{self.waits_in or 'the exchange of gradients'} in {self.describe_progress()}"
        if not self._wait_for_failure(4 * PERIOD_S):
            missing = self._who_is_missing()
        if self._failure is None:
            return RankError(f"rank {self.rank} could not finish {waited_in}: {missing} ({error})")
        if self._failure["rank"] == self.rank:
            return error
        return RankError(f"{self._told()}\n\n{self._failure['text']}".rstrip())

    def _wait_for_failure(self, seconds: float) -> bool:
        """Wait so long for the thread to hear of a failure; return whether it did."""
        deadline = time.monotonic() + seconds
        while self._failure is None and time.monotonic() < deadline:
            time.sleep(PERIOD_S / 5)
        return self._failure is not None

    def _told(self) -> str:
        failure = self._failure or {}
        return f"rank {failure.get('rank')} failed first, in {failure.get('doing')}: {failure.get('error')}"

    def _who_is_missing(self) -> str:
        """Return who has stopped to write, or, where all still do, what each is doing."""
        try:
            before = within(ANSWER_S, self._beats)
            self._wait_for_failure(STILL_S)
            after = within(ANSWER_S, self._beats)
        except Exception:
            return "the process that serves the store (rank 0, or torchrun's agent) is gone, or out of reach"
        gone = [rank for rank, beat in after.items() if beat == before[rank]]
        if gone:
            return "; ".join(f"rank {rank} is gone, last seen in {_described(after[rank])}" for rank in gone)
        return "all live on: " + "; ".join(f"rank {rank} is in {_described(beat)}" for rank, beat in after.items())

    def _beats(self) -> dict[int, dict[str, Any]]:
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        beats: dict[int, dict[str, Any]] = {}
        for rank in others:
            key = f"beat/{rank}"
            beats[rank] = json.loads(self.store.get(key)) if self.store.check([key]) else {"doing": "its start"}
        return beats


def within(seconds: float, ask: Callable[[], Any]) -> Any:
    """Return what ``ask`` returns; torch's store itself waits for minutes for a machine that was cut off.

    Raises:
        TimeoutError: If it takes longer than ``seconds``.
        Exception: What ``ask`` raises.
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


def _is_of_collective(error: BaseException) -> bool:
    """Whether an error may be no more than the echo of another process's."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in COLLECTIVE_ERRORS)
