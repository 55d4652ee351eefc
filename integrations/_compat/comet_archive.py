"""Comet: the zip files of an offline experiment, and the experiment that is global in the process."""

from __future__ import annotations

import contextlib
import importlib
import json
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import none_if_unreadable

MESSAGES = "messages.json"
"""Member that holds the metrics, one JSON message a line; the archive of a run that was killed lacks it."""


def use_own_suffixes() -> None:
    """Let Comet draw the suffix of an archive's name from the system.

    It draws from Python's global random numbers, which a trainer seeds, and restores when it resumes: a later part of a
    run would get the name of an earlier one, and replace its file.
    """
    module: Any = importlib.import_module("comet_ml.offline")
    if hasattr(module, "random_ascii_string"):
        module.random_ascii_string = _random_text


def _random_text(length: int = 6) -> str:
    return secrets.token_hex(length)[:length]


@contextlib.contextmanager
def global_experiment_kept() -> Iterator[None]:
    """Return a context in which a new experiment does not take the place of one that the user has opened.

    Comet ends the global experiment when another one is made.
    """
    module: Any = importlib.import_module("comet_ml.config")
    opened = getattr(module, "get_global_experiment", lambda: None)()
    if not getattr(opened, "alive", False) or not hasattr(module, "set_global_experiment"):
        yield
        return
    module.set_global_experiment(None)
    try:
        yield
    finally:
        module.set_global_experiment(opened)


def archives(folder: Path, key: str) -> list[Path]:
    """Return the archives of the experiment ``key`` in ``folder`` that hold messages."""
    return [path for path in folder.glob(f"{key}*.zip") if MESSAGES in _members(path)]


def read_metrics(path: Path) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and value of every metric in an archive."""
    with zipfile.ZipFile(path) as archive, archive.open(MESSAGES) as lines:
        for message in map(json.loads, lines):
            payload = message.get("payload", {})
            metric = payload.get("metric") if message.get("type") == "metric_msg" else None
            if metric:
                yield metric["metricName"], int(payload.get("step") or metric.get("step") or 0), metric["metricValue"]


@none_if_unreadable
def read_last_steps(folder: Path, key: str) -> dict[str, int]:
    """Return the last step of every metric in the archives of the experiment ``key``."""
    last: dict[str, int] = {}
    for path in archives(folder, key):
        for name, step, _ in read_metrics(path):
            last[name] = max(last.get(name, -1), step)
    return last


def _members(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()
