"""JSON lines logger: log records as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._util.atomic_files import append_line, open_to_append
from .log_file import LogFileCallback


class JSONLinesLoggerCallback(LogFileCallback):
    """Write every log record as one line of JSON, readable while training; by default to output_dir/log.jsonl."""

    name: str | None = "jsonl"
    default_name: str = "log.jsonl"

    def whole(self, records: Sequence[Mapping[str, Any]]) -> str:
        """Return one line for each record."""
        return "".join(map(line_of, records))

    def append(self, path: Path, record: Mapping[str, Any]) -> bool:
        """Add one line at the end of the file."""
        with open_to_append(path) as file:
            append_line(file, line_of(record))
        return True

    def streamed(self, record: Mapping[str, Any]) -> str:
        """Return the line of a record."""
        return line_of(record)


def line_of(record: Mapping[str, Any]) -> str:
    """Return a record as one line; a value that JSON cannot hold is written as text.

    Example:
        >>> line_of({"loss": 0.5, "step": 1})
        '{"loss": 0.5, "step": 1}\\n'
    """
    return json.dumps(record, default=str) + "\n"
