"""One commit at a time in the background, so that training goes on while a checkpoint reaches the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path


class Committer:
    """Runs commits on a thread of their own, in order, one in flight.

    Every commit has its own thread, which ends with it: there is none before the first commit and none between two, so
    nothing idle keeps the interpreter from ending, and the interpreter waits for the one in flight. There is no lock: a
    process forked in mid-commit finds none taken; the commit stays with the parent. Where no thread can be started (the
    interpreter is ending, the system has no more), the commit is done before `submit` returns.

    Attributes:
        committed: What the last commit that succeeded gave back.
    """

    def __init__(self) -> None:
        self.committed: Path | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def submit(self, work: Callable[[], Path]) -> None:
        """Begin ``work`` once the commit in flight, if any, is through; raise that one's failure instead, once."""
        self.wait()
        self._thread = self._start(work)
        if self._thread is None:
            self._run(work)

    def raise_if_failed(self) -> None:
        """Raise the failure of the last commit, once. One attribute test where there is none, and it never waits."""
        if self._failure is not None:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is in flight; raise the failure of the last commit, once."""
        if self._pid != os.getpid():  # forked: the commit in flight, and its failure, are the parent's
            self._pid, self._thread, self._failure = os.getpid(), None, None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _start(self, work: Callable[[], Path]) -> threading.Thread | None:
        if not threading.main_thread().is_alive():  # the interpreter is ending: it would not wait for a new thread
            return None
        thread = threading.Thread(target=self._run, args=(work,), name="trackside-commit", daemon=False)
        try:
            thread.start()
        except RuntimeError:
            return None
        return thread

    def _run(self, work: Callable[[], Path]) -> None:
        try:
            self.committed = work()
        except BaseException as error:
            self._failure = error
