"""Writing files so that a crash at any instant leaves the old or the new, never a piece.

The order is always the same: write beside the final place, fsync, rename, fsync the folder that holds the name.
POSIX only: it counts on folders that can be fsynced and locked.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Put ``content`` into the file ``path``: whoever opens it, now or after a crash, sees all of it or the old one.

    Args:
        path: The file; its folder must exist.
        content: The whole of it; text is written as UTF-8.

    Raises:
        CheckpointError: If it cannot be written; what was there before is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path} could not be written: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return class and message of ``error`` on one line.

    Example:
        >>> describe(ValueError("too short"))
        'ValueError: too short'
    """
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def make_folder(path: Path) -> None:
    """Create ``path`` and its missing parents so that their names outlive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(path: str | Path) -> None:
    """Have the names in a folder reach the disk, where its file system can do that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: a file system that keeps no folders to sync
            raise
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; return False, having done nothing, where the system or its file system cannot.

    Source:
        renameat2(2), RENAME_EXCHANGE; not in Python's os. Known to be refused by NFS.
    """
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Create ``folder`` and hold a lock on it. The lock ends with the process, however that ends; a name does not."""
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # where nothing can be locked, `is_in_use` goes by the process
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_in_use(folder: Path, pid: int) -> bool:
    """Return whether a living process works on ``folder``; in doubt, yes.

    Both are asked. The lock, because in a restarted container another process has the old number (often this one), and
    because a process on another machine has none here. The process, because a folder is not locked as it is created.

    Args:
        folder: What `claimed` created.
        pid: The process that did.
    """
    if pid != os.getpid() and _process_exists(pid):
        return True
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno == errno.EWOULDBLOCK or pid == os.getpid()
    finally:
        os.close(descriptor)
    return False


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's
        return True
    return True
