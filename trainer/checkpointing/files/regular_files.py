"""Regular files of a folder that someone else may have written: checked before they are opened, with bounded reads.

Opening a named pipe waits for a writer, a device such as /dev/zero never ends, and a link may lead to any file of the
machine. So a file is opened only after its type is known, and is checked again once it is open.
"""

from __future__ import annotations

import io
import os
import stat
from os import open as open_descriptor
from pathlib import Path, PurePosixPath

KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


class IrregularFileError(OSError):
    """A name does not stand for a regular file inside of its folder; the message is the rest of a sentence."""


def is_inside(name: str) -> bool:
    """Return whether ``name`` is a relative path without ``..``, so that it stays inside of the folder it is joined to.

    Example:
        >>> [is_inside(name) for name in ("a/b", "/a", "a/../b", "./a", "")]
        [True, False, False, False, False]
    """
    is_plain = all(part not in ("", ".", "..") for part in name.split("/")) and "\0" not in name
    return is_plain and not Path(name).is_absolute() and not Path(name).drive


def status_of(folder: Path, name: str, *, links: bool = False) -> os.stat_result:
    """Return the status of a regular file of a folder, without opening it.

    Args:
        folder: The folder; it may itself be a link.
        name: A path relative to it.
        links: Whether links are followed, as in the cache of a model hub.

    Raises:
        FileNotFoundError: If it does not exist.
        IrregularFileError: If it is something else than a regular file, or one of its parents inside of the folder
            something else than a folder.
    """
    for parent in [str(item) for item in reversed(PurePosixPath(name).parents)][1:]:
        kind = stat.S_IFMT(os.lstat(folder / parent).st_mode)
        if kind != stat.S_IFDIR and not links:
            raise IrregularFileError(f"has {KINDS.get(kind, 'a file')} in the place of the folder {parent}")
    status = os.stat(folder / name, follow_symlinks=links)
    _check(status, name)
    return status


def open_regular(folder: Path, name: str, *, links: bool = False) -> io.FileIO:
    """Open a regular file of a folder for reading, unbuffered; see `status_of`."""
    status_of(folder, name, links=links)
    descriptor = open_descriptor(folder / name, FLAGS & ~getattr(os, "O_NOFOLLOW", 0) if links else FLAGS)
    try:
        _check(os.fstat(descriptor), name)
        return io.FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(folder: Path, name: str, *, limit: int, links: bool = False) -> bytes:
    """Return the content of a regular file of a folder.

    Args:
        limit: Largest size that is read.

    Raises:
        IrregularFileError: If it is larger.

    Units:
        limit: bytes.
    """
    with open_regular(folder, name, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise IrregularFileError(f"has {size} bytes in {name}; at most {limit} are read")
        return file.readall()


def _check(status: os.stat_result, name: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise IrregularFileError(f"has {KINDS.get(kind, 'something else')} in the place of the file {name}")
