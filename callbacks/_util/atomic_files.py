"""Atomic files: after a crash at any instant a file or folder is the old one or the new one, never a part.

The order is always the same: write beside the final path, fsync, rename, fsync the folder that holds the name. Windows
cannot fsync or lock a folder; what that means for a checkpoint is in ``docs/explanation/checkpoints.md``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from ..errors import CheckpointError, describe

IS_POSIX = os.name == "posix"

AT_FDCWD = -100
RENAME_EXCHANGE = 2

READER_S = 1.0
"""Longest wait for the reader of a full pipe, in seconds."""


def write_atomically(path: str | Path, content: str | bytes, *, sync: bool = True) -> None:
    """Replace the file ``path`` by one that holds ``content``; a reader finds all of it or the old file.

    Args:
        path: The file, or a link to it, which stays; its folder must exist.
        content: The whole content; text is written as UTF-8.
        sync: Also wait until the file is on the disk, so that it outlives a power cut.

    Raises:
        CheckpointError: If it cannot be written, or is a stream (see `is_stream`); what was there before is untouched.
    """
    if is_stream(path):
        raise CheckpointError(f"{path} is not a file that can be replaced: it is a pipe or a device")
    path = Path(path).resolve()
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content.encode("utf-8", errors="backslashreplace") if isinstance(content, str) else content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if sync:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        failure = CheckpointError(f"{path} could not be written: {describe(error)}")
        failure.errno = error.errno
        raise failure from error


def is_stream(path: str | Path) -> bool:
    """Return whether ``path`` takes text and keeps none of its own: a pipe, a device, or an open file of a process.

    ``/dev/stdout`` is one although it may lead to a file: that file is the file of the process that started this one.
    """
    path = Path(path)
    for _ in range(40):  # as many links as Linux follows
        folder = path.absolute().parent.resolve()
        if folder.parts[1:2] == ("proc",) or folder == Path("/dev/fd"):
            return True
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # there is nothing yet
        return False


def open_to_append(path: Path) -> FileIO:
    """Return ``path`` opened for `append_line`, after making its folder; a pipe whose reader is late does not block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_stream(path):
        return path.open("a+b", buffering=0)
    flags = os.O_NONBLOCK | os.O_APPEND | (os.O_RDWR if path.is_fifo() else os.O_WRONLY)
    return os.fdopen(os.open(path, flags), "wb", buffering=0)


def is_at(file: FileIO, path: Path) -> bool:
    """Return whether ``path`` still leads to an open file: it may have been removed, or replaced."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def append_line(file: FileIO, line: str) -> None:
    """Append a line of text to a file, all of it or nothing.

    It begins on a new line even if a killed process left a part of one at the end.

    Args:
        file: From `open_to_append`: without a buffer, which would hold back the rest of a line that failed.
        line: Ends with a newline.

    Raises:
        OSError: If it cannot be written, or a pipe is full and its reader takes nothing for a second.
    """
    is_whole = file.seekable() and file.readable()  # a stream is only added to
    end = file.seek(0, os.SEEK_END) if is_whole else 0
    data = line.encode("utf-8", errors="backslashreplace")
    if end and file.seek(end - 1) >= 0 and file.read(1) != b"\n":
        data = b"\n" + data
    try:
        while data:
            written = file.write(data)
            if written is None and not select.select([], [file], [], READER_S)[1]:
                raise BlockingIOError(errno.EAGAIN, f"nothing reads from the pipe {file.name}")
            data = data[written or 0 :]
    except OSError:
        if is_whole:
            with contextlib.suppress(OSError):
                file.truncate(end)
        raise


def make_folder(path: Path) -> None:
    """Create ``path`` and its missing parents so that their names outlive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(path: str | Path) -> None:
    """Write the names in a folder to the disk, where the system and the file system can do that."""
    if not IS_POSIX:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: the file system does not sync folders
            raise
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; return False, with nothing done, where the system or its file system cannot.

    Source:
        renameat2(2), RENAME_EXCHANGE; not in Python's os, and refused by NFS.
    """
    if not IS_POSIX:
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Create ``folder`` and hold a lock on it. The lock ends with the process, whatever ends that."""
    folder.mkdir()
    with contextlib.ExitStack() as opened:
        _lock(folder, opened)  # where nothing can be locked, `is_in_use` goes by the process
        yield


def is_in_use(folder: Path, pid: int) -> bool:
    """Return whether a running process works on ``folder``; if that cannot be told, True.

    Both the process and the lock are asked. The lock, since in a restarted container another process has the old number
    (often this one), and since a process on another machine has no number here. The process, since a folder is not yet
    locked when it is created.

    Args:
        folder: A folder that `claimed` created.
        pid: The process that did.
    """
    if pid != os.getpid() and process_exists(pid):
        return True
    try:
        with contextlib.ExitStack() as opened:
            failure = _lock(folder, opened)
    except OSError:
        return True
    return failure == errno.EWOULDBLOCK or bool(failure and pid == os.getpid())


def _lock(folder: Path, opened: contextlib.ExitStack) -> int:
    """Lock ``folder`` until ``opened`` is closed; return 0, or the error number of why it cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return errno.ENOLCK
    descriptor = os.open(folder, os.O_RDONLY)
    opened.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno or errno.ENOLCK
    return 0


def process_exists(pid: int) -> bool:
    """Return whether a process with this number exists on this machine; if that cannot be told, True."""
    if not IS_POSIX:
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        return True
    return True
