"""What Python does, told by its audit events: files opened, modules imported, classes found, code run."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIBRARIES = tuple({*map(os.path.realpath, sysconfig.get_paths().values()), os.path.realpath(sys.base_prefix)})
SYSTEM = ("/proc/", "/sys/", "/dev/null", "/usr/lib", "/usr/share", "/etc/ld.so")
RUNS_CODE = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class", "code.__new__")


@dataclass
class Watch:
    """What happened while it was watched.

    Attributes:
        opened: Files that were opened, except those of libraries, Python's own and the system's.
        imported: Modules that were imported for the first time.
        ran: Events by which code is found or run, with their arguments.
    """

    opened: list[str] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    ran: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def outside(self, *folders: Path) -> list[str]:
        """Return the files that were opened outside of the folders."""
        allowed = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in folders)
        return [path for path in self.opened if not f"{os.path.realpath(path)}{os.sep}".startswith(allowed)]

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        """Take one audit event."""
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not path.startswith(LIBRARIES + SYSTEM) and not {".py", ".pyc"} & set(Path(path).suffixes):
                self.opened.append(os.fsdecode(args[0]))
        elif event == "import":
            self.imported.append(str(args[0]))
        elif event in RUNS_CODE:
            self.ran.append((event, args))


_watches: list[Watch] = []
_hook_is_added = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    for watch in _watches:
        watch.note(event, args)


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch what happens in a with block; an audit hook stays in the process, and does nothing outside of one."""
    global _hook_is_added
    if not _hook_is_added:
        sys.addaudithook(_hook)
        _hook_is_added = True
    watch = Watch()
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)
