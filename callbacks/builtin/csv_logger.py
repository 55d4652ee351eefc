"""CSV logger: log records as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .._util.atomic_files import append_line, write_atomically
from .log_file import LogFileCallback

FIRST_COLUMNS = ("step", "epoch")


class CSVLoggerCallback(LogFileCallback):
    """Write every log record as one row of CSV, readable while training; by default to output_dir/log.csv.

    A value that is logged for the first time adds a column at the right, empty in the rows before.
    """

    name: str | None = "csv"
    default_name: str = "log.csv"

    def rewrite(self, path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace the content of the file by ``records``."""
        columns = _columns([*FIRST_COLUMNS] if records else [], records)
        rows = [dict(zip(columns, columns, strict=True)), *records] if columns else []
        write_atomically(path, _text(rows, columns), sync=False)

    def append(self, path: Path, record: Mapping[str, Any]) -> None:
        """Add one row at the end of the file, and the columns that it needs."""
        known = _header(path)
        columns = _columns(known or FIRST_COLUMNS, [record])
        if columns == known:
            with path.open("a+b", buffering=0) as raw:
                append_line(raw, _text([record], columns))
            return
        with path.open("a+", encoding="utf-8", newline="") as file:
            file.seek(0)
            self.rewrite(path, [*csv.DictReader(file), record])


def _header(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def _columns(known: Iterable[str], records: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys([*known, *(key for record in records for key in record)]))


def _text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
