"""Journal tail: the events that a journal has got since it was last read, without those that a page does not need."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trackside.callbacks.builtin.journal import is_event
from trackside.callbacks.events import EVENTS

TOLD = frozenset(
    {
        *("on_init_end", "on_load", "on_train_begin", "on_log", "on_evaluate", "on_save"),
        *("on_exception", "on_train_end", "on_callback_error"),
    }
)
"""Events whose lines a page needs in any case."""

QUIET = tuple(f'{{"event": "{event}",'.encode() for event in EVENTS if event not in TOLD)
"""How the lines of the other events begin, which are most of a journal."""

FIRST = tuple(f'{{"event": "{event}",'.encode() for event in ("on_init_end", "on_load", "on_train_begin"))
"""How the first line of another start begins; the line before it tells how far the start before came."""

MARKS = (b'"decisions":', b'"state":', b'"skipped": true')
"""What makes a line of another event worth reading."""


LAST = 1e11
"""Seconds since 1970 that no journal reaches; the year 5138."""


class JournalTail:
    """Reads a journal line by line, and goes on where it stopped.

    A line counts once it ends with a newline: the last line of a run that is killed may be torn, and that of a run that
    goes on may not be whole yet. Where the file has been replaced or has become shorter, it is read from its beginning.

    Args:
        path: The journal.

    Attributes:
        torn: Number of lines that are not JSON, as a killed process leaves them.
        foreign: Number of lines that are not events.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = self.foreign = 0
        self._offset = 0
        self._file: tuple[int, int] | None = None

    def is_replaced(self) -> bool:
        """Return whether the file is not the one that was read before, so that all of it is to be read again."""
        status = os.stat(self.path)
        file = (status.st_dev, status.st_ino)
        is_other = self._file is not None and (file != self._file or status.st_size < self._offset)
        if is_other or self._file is None:
            self._file, self._offset, self.torn, self.foreign = file, 0, 0, 0
        return is_other

    def new_entries(self) -> Iterator[dict[str, Any]]:
        """Yield the events of the lines that were added, the last of a start in any case: it tells how far that came.

        Raises:
            OSError: If the file cannot be read.
        """
        with self.path.open("rb") as file:
            file.seek(self._offset)
            last = None
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                if line.startswith(QUIET) and not any(mark in line for mark in MARKS):
                    last = line
                    continue
                entry = self._entry(line)
                if entry is None:
                    continue
                if last is not None and line.startswith(FIRST):
                    yield from filter(None, [self._entry(last)])
                last = None
                yield entry
        if last is not None:
            yield from filter(None, [self._entry(last)])

    def ends_torn(self) -> bool:
        """Return whether the file goes on after the last whole line."""
        return os.stat(self.path).st_size > self._offset

    def _entry(self, line: bytes) -> dict[str, Any] | None:
        try:
            entry = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            self.torn += bool(line.strip())
            return None
        if is_event(entry) and 0 <= _time_of(entry) < LAST:
            return dict(entry)
        self.foreign += 1
        return None


def _time_of(entry: dict[str, Any]) -> float:
    """Return the time of an event; -1 if it has one that is not a number."""
    time = entry.get("time", 0.0)
    return time if isinstance(time, int | float) else -1.0
