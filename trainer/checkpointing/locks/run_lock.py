"""Lock of an output folder: one run at a time writes into it.

The lock is an flock on a file in the folder, which ends with the process, whatever ends that. The file names the
holder. The first process of a job holds it for all of them, and successive and nested trainers of a process share it.
A forked child does not hold it, so that a worker that outlives a killed run does not keep the folder locked.

Source:
    flock(2): the lock belongs to the open file, which forked processes share; NFS maps it to a lock of the server.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.callbacks._util.atomic_files import make_folder, process_exists
from trackside.callbacks.errors import ArgumentError, CheckpointError, describe

from ..files.regular_files import read_regular

logger: logging.Logger = logging.getLogger("trackside.trainer")

LOCK_FILE = ".trackside.lock"
LIMIT_BYTES = 10_000
DYING_S = 10.0
"""How long the lock of a process that no longer exists is waited for: the system frees it while it removes the rest."""
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

_told: set[str] = set()


@dataclass
class _Lock:
    """A lock that this process holds.

    Attributes:
        descriptor: The open file; None if the file system has no locks.
        made: The folders that were made for it, outermost first.
        holders: Number of trainers that share it.
    """

    descriptor: int | None
    made: list[Path] = field(default_factory=list)
    holders: int = 0


_locks: dict[Path, _Lock] = {}


@contextlib.contextmanager
def locked(folder: Path, run_id: str, *, is_needed: bool = True) -> Iterator[None]:
    """Hold the lock of ``folder``, which is made if it does not exist, and is removed afterwards if it stays empty.

    Args:
        folder: The output folder of a run.
        run_id: What the lock file says of the run.
        is_needed: Whether the run is sure to write into the folder.

    Raises:
        ArgumentError: If another run holds it; the message names it.
        CheckpointError: If the folder cannot be made or written, but is needed.
    """
    path = Path(os.path.realpath(folder))
    try:
        lock = _locks.get(path) or _locks.setdefault(path, _acquire(path, folder, run_id))
    except OSError as error:
        if is_needed:
            raise CheckpointError(f"output_dir={str(folder)!r} cannot be written: {describe(error)}") from error
        lock = _Lock(None)
    lock.holders += 1
    try:
        yield
    finally:
        lock.holders -= 1
        if lock.holders == 0 and _locks.get(path) is lock:
            del _locks[path]
            _release(path, lock)


def rename(folder: Path, run_id: str) -> None:
    """Write another run id into the lock file of ``folder``: the run goes on with an earlier one."""
    lock = _locks.get(Path(os.path.realpath(folder)))
    if lock is not None and lock.descriptor is not None:
        _write_holder(lock.descriptor, run_id)


def _acquire(path: Path, folder: Path, run_id: str) -> _Lock:
    made = [parent for parent in reversed((path, *path.parents)) if not parent.exists()]
    make_folder(path)
    give_up = time.monotonic() + DYING_S
    while True:
        descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        failure = _try(descriptor)
        if failure == 0 and _is_current(descriptor, path):
            _write_holder(descriptor, run_id)
            return _Lock(descriptor, made)
        holder = _read_holder(path) if failure in BUSY else {}
        may_be_dying = has_ended(holder, is_held=path in _locks) and time.monotonic() < give_up
        if failure in BUSY and not may_be_dying:
            os.close(descriptor)
            if holder.get("run") == run_id:  # a run that goes on elsewhere has another id until it has the lock
                allowed = (
                    "False where the machines see one output_dir, and LOCAL_RANK in the environment of each process"
                )
                allowed += f": {in_words(holder)}, writes into {folder}, too"
                raise ArgumentError("save_on_each_node", True, allowed)
            raise ArgumentError("output_dir", str(folder), f"another run writes into it: {in_words(holder)}. {ADVICE}")
        os.close(descriptor)
        if failure and failure not in BUSY:
            tell_once(folder, os.strerror(failure))
            return _Lock(None, made)
        time.sleep(0.05)


ADVICE = "Wait until it ends, stop it, or give this run another output_dir"


def _try(descriptor: int) -> int:
    """Lock an open file without waiting; return 0, or the error number."""
    try:
        import fcntl
    except ImportError:  # Windows
        return errno.ENOLCK
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno or errno.ENOLCK
    return 0


def _is_current(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the lock file: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path / LOCK_FILE))
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int, run_id: str) -> None:
    with contextlib.suppress(OSError):  # the lock counts, not what it says
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(of_this_process(run_id)).encode(), 0)


def of_this_process(run_id: str) -> dict[str, Any]:
    """Return what a lock says of its holder."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    here = {"pid": os.getpid(), "host": socket.gethostname(), "processes": _processes()}
    return {**here, "run": run_id, "since": since}


def has_ended(told: dict[str, Any], *, is_held: bool) -> bool:
    """Return whether the holder of a lock was a process of this machine that has ended.

    A process of another machine, or of another container of this one, counts as running: whether it is cannot be told
    from here.

    Args:
        told: What the lock says of it; see `of_this_process`.
        is_held: Whether this process holds the lock; another process may have had its number before.
    """
    pid, here = told.get("pid"), _processes()
    if not isinstance(pid, int) or (told.get("host"), told.get("processes", here)) != (socket.gethostname(), here):
        return False
    return not (is_held if pid == os.getpid() else process_exists(pid))


def _processes() -> str:
    """Return the namespace in which the number of this process counts, as containers of one machine have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read_holder(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(path, LOCK_FILE, limit=LIMIT_BYTES))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def holder_of(folder: Path | str) -> dict[str, Any] | None:
    """Return what the lock of ``folder`` says of its holder; None without one, or if its process has ended.

    The lock is not tried, so that a run which begins at this instant is not in the way of it; see `has_ended`.
    """
    path = Path(os.path.realpath(folder))
    told = _read_holder(path)
    is_named = isinstance(told.get("pid"), int)
    return told if is_named and not has_ended(told, is_held=path in _locks) else None


def in_words(told: dict[str, Any]) -> str:
    """Return a holder as a text."""
    where = f"process {told.get('pid', 'unknown')} on {told.get('host', 'an unknown machine')}"
    return f"{where}, run {told.get('run', 'unknown')}, since {told.get('since', 'an unknown time')}"


def _release(path: Path, lock: _Lock) -> None:
    if lock.descriptor is None:
        (path / LOCK_FILE).unlink(missing_ok=True)
    elif _is_current(lock.descriptor, path):
        with contextlib.suppress(OSError):
            (path / LOCK_FILE).unlink()
    if lock.descriptor is not None:
        os.close(lock.descriptor)
    for folder in reversed(lock.made):
        with contextlib.suppress(OSError):  # it is not empty
            folder.rmdir()


def tell_once(folder: Path | str, why: str) -> None:
    """Warn once of a place without a lock."""
    if str(folder) not in _told:
        _told.add(str(folder))
        logger.warning("%s cannot be locked (%s), so a second run into it would not be noticed", folder, why)


def _forget() -> None:
    """Close the locks in a forked child; they stay with the parent."""
    for lock in _locks.values():
        if lock.descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(lock.descriptor)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
