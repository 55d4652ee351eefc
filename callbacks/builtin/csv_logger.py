"""CSV logger: log records as a table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._util.atomic_files import append_line, open_to_append
from .log_file import LogFileCallback

FIRST_COLUMNS = ("step", "epoch")


class CSVLoggerCallback(LogFileCallback):
    """Write every log record as one row of CSV, readable while training; by default to output_dir/log.csv.

    A value that is logged for the first time adds a column at the right, empty in the rows before.
    """

    name: str | None = "csv"
    default_name: str = "log.csv"

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(path)
        self._streamed: list[str] = []

    def whole(self, records: Sequence[Mapping[str, Any]]) -> str:
        """Return a header and one row for each record."""
        return _table(_columns([*FIRST_COLUMNS] if records else [], records), records)

    def append(self, path: Path, record: Mapping[str, Any]) -> bool:
        """Add one row at the end of the file, if the file has its columns."""
        known = _header(path)
        columns = _columns(known or FIRST_COLUMNS, [record])
        if known and columns != known:
            if self._is_of_run:
                return False
            with path.open(encoding="utf-8", newline="") as rows:  # the history is that of another run
                self._rewrite(path, [*csv.DictReader(rows), record])
            return True
        with open_to_append(path) as file:
            append_line(file, (_text if known else _table)(columns, [record]))
        return True

    def streamed(self, record: Mapping[str, Any]) -> str:
        """Return the row of a record, after a header where there are new columns."""
        known, self._streamed = self._streamed, _columns(self._streamed or FIRST_COLUMNS, [record])
        return (_text if known == self._streamed else _table)(self._streamed, [record])


def _header(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def _columns(known: Iterable[str], records: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys([*known, *(key for record in records for key in record)]))


def _table(columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str:
    return _text(columns, [dict(zip(columns, columns, strict=True)), *records] if columns else [])


def _text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
