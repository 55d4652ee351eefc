"""Trackio storage: the rows of a run in Trackio's local SQLite file."""

from __future__ import annotations

from . import none_if_unreadable


@none_if_unreadable
def read_last_steps(project: str, run_name: str) -> dict[str, int]:
    """Return the last step of every curve of a run."""
    from trackio.sqlite_storage import SQLiteStorage

    last: dict[str, int] = {}
    for row in SQLiteStorage.get_logs(project, run_name):
        for name in row:
            last[name] = max(last.get(name, -1), int(row.get("step") or 0))
    return last
