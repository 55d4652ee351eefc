"""Background commits of checkpoints, in order, while training continues."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

MAX_COMMITS = 2
"""One that runs, and one that waits for it."""


class Committer:
    """Runs commits on threads, in order, one at a time; one more may wait.

    Every commit has its own thread, which first waits for the previous one and ends with its commit: no idle thread
    keeps the interpreter from exiting, and the interpreter waits for the commits. No lock is used, so a process that is
    forked during a commit cannot inherit a held lock; the commits stay with the parent. If no thread can be started
    (the interpreter is exiting, or the system has no threads left), the commit completes before `submit` returns.
    """

    def __init__(self) -> None:
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._pid = os.getpid()

    def submit(self, work: Callable[[], Any]) -> None:
        """Start ``work`` after the commits in progress; if one has failed, raise its error instead, once."""
        self.make_room()
        if not self._start(work):
            self.wait()
            self._run(work, None)

    def make_room(self) -> None:
        """Wait until another commit may be submitted; raise the first failure of the commits that ended, once."""
        self._join(MAX_COMMITS - 1)

    def raise_if_failed(self) -> None:
        """Raise the first failure of the commits, once; waits only after a failure, and costs one attribute test."""
        if self._failure is not None:
            self.wait()

    def wait(self) -> None:
        """Wait for all commits; raise the first failure, once."""
        self._join(0)

    def _join(self, remaining: int) -> None:
        if self._pid != os.getpid():  # forked: the commits in progress and their failure belong to the parent
            self._pid, self._threads, self._failure = os.getpid(), [], None
        while len(self._threads) > remaining:
            self._threads.pop(0).join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _start(self, work: Callable[[], Any]) -> bool:
        if not threading.main_thread().is_alive():  # the interpreter is exiting: it would not wait for a new thread
            return False
        previous = self._threads[-1] if self._threads else None
        thread = threading.Thread(target=self._run, args=(work, previous), name="trackside-commit", daemon=False)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._threads.append(thread)
        return True

    def _run(self, work: Callable[[], Any], previous: threading.Thread | None) -> None:
        if previous is not None:
            previous.join()
        try:
            work()
        except BaseException as error:
            self._failure = self._failure or error
