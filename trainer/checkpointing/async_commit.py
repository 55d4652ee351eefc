"""Background commits of checkpoints, one at a time, while training continues."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any


class Committer:
    """Runs commits on threads, in order, one at a time.

    Every commit has its own thread, which ends with it: no idle thread keeps the interpreter from exiting, and the
    interpreter waits for a running commit. No lock is used, so a process that is forked during a commit cannot inherit
    a held lock; the commit stays with the parent. If no thread can be started (the interpreter is exiting, or the
    system has no threads left), the commit completes before `submit` returns.
    """

    def __init__(self) -> None:
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def submit(self, work: Callable[[], Any]) -> None:
        """Start ``work`` after the running commit; if that one failed, raise its error instead, once."""
        self.wait()
        self._thread = self._start(work)
        if self._thread is None:
            self._run(work)

    def raise_if_failed(self) -> None:
        """Raise the failure of the last commit, once; never waits, and costs one attribute test if nothing failed."""
        if self._failure is not None:
            self.wait()

    def wait(self) -> None:
        """Wait for the running commit; raise the failure of the last one, once."""
        if self._pid != os.getpid():  # forked: the running commit and its failure belong to the parent
            self._pid, self._thread, self._failure = os.getpid(), None, None
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _start(self, work: Callable[[], Any]) -> threading.Thread | None:
        if not threading.main_thread().is_alive():  # the interpreter is exiting: it would not wait for a new thread
            return None
        thread = threading.Thread(target=self._run, args=(work,), name="trackside-commit", daemon=False)
        try:
            thread.start()
        except RuntimeError:
            return None
        return thread

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = error
