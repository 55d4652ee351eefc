"""Tables of a page: evaluations, decisions, starts, checkpoints, costs of callbacks and arguments, as rows of text."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.report.checkpoint_entries import size_text
from trackside.report.curves import HIDDEN
from trackside.report.defaults import split_by_default
from trackside.report.reading import ReadRun
from trackside.report.run_record import Start, is_number

WIDTH = 300
"""Characters of a value that are shown."""

FLAGS = {
    "should_training_stop": "stop training",
    "should_epoch_stop": "leave the epoch",
    "should_save": "save",
    "should_evaluate": "evaluate",
    "should_log": "log",
    "should_skip_update": "skip the update",
    "should_roll_back": "go back to a checkpoint",
    "rate_factor": "change the learning rate",
}
"""Decisions in words."""


@dataclass
class Table:
    """A table.

    Attributes:
        key: Its name in the page.
        title: Its heading.
        head: The titles of its columns.
        rows: Its cells, as text.
        numbers: Columns of numbers, which are aligned at their right end.
        note: A sentence below the heading.
        empty: What is said instead of a table without rows.
        is_long: Whether it is closed until it is asked for.
    """

    key: str
    title: str
    head: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    numbers: frozenset[int] = frozenset()
    note: str = ""
    empty: str = ""
    is_long: bool = False


def tables_of(run: ReadRun) -> list[Table]:
    """Return all tables of a run."""
    changed, others = split_by_default(run.args) if run.args else ({}, {})
    return [evaluations(run), decisions(run), starts(run), checkpoints(run), costs(run), _given(changed), _rest(others)]


def evaluations(run: ReadRun) -> Table:
    """Return the evaluations: one row for each, one column for each metric."""
    items = run.record.evaluations
    names = [name for name in dict.fromkeys(key for item in items for key in item.what) if _is_metric(name, items)]
    head = ["step", *(str(name).removeprefix("eval_") for name in names), "because"]
    rows = [
        [f"{item.step:,}", *(number(item.what.get(name)) for name in names), item.reason or ""]
        for item in sorted(items, key=lambda item: item.step)
    ]
    best = run.record.state.get("best_global_step")
    for row, item in zip(rows, sorted(items, key=lambda item: item.step), strict=True):
        row[0] += " (best)" if best is not None and item.step == best else ""
    metric = run.args.get("metric_for_best_model")
    note = f"The best is chosen by {metric}." if metric and best is not None else ""
    numbers = frozenset(range(len(names) + 1))
    return Table("evaluations", "Evaluations", head, rows, numbers, note, "The run was not evaluated.")


def decisions(run: ReadRun) -> Table:
    """Return what callbacks, signals and the loop decided, and why."""
    record = run.record
    rows = [
        [_clock(item.time), f"{item.step:,}", FLAGS.get(item.what, str(item.what)), short(item.reason or "")]
        for item in record.decisions
    ]
    told = [f"{count:,} x {FLAGS.get(flag, flag)}" for flag, count in record.routine.items()]
    note = f"As the arguments' schedule says, and not listed: {', '.join(told)}." if told else ""
    if record.skipped:
        note += f" Updates whose gradients were not used: {record.skipped:,}."
    empty = "No callback, signal or error has changed the course of the run."
    return Table("decisions", "Decisions", ["time", "step", "what", "because"], rows, frozenset({1}), note, empty)


def starts(run: ReadRun) -> Table:
    """Return the starts of the run's process, with what a resumed one changed."""
    rows = []
    items = run.record.starts
    for index, start in enumerate(items):
        came_from = "the beginning" if start.checkpoint is None else Path(start.checkpoint).name
        changes = [f"{name}: {value_text(old)} → {value_text(new)}" for name, (old, new) in _pairs(start.differences)]
        is_last = index == len(items) - 1
        rows.append(
            [
                _clock(start.time),
                came_from if start.step or start.checkpoint else "the beginning",
                f"{start.step:,} to {start.last_step:,}",
                duration(start.last_time - start.time),
                f"{start.repeated:,}" if start.repeated else "",
                "\n".join(changes) or ("" if start.checkpoint is None else "none"),
                ending_of(run) if is_last else _end(start),
            ]
        )
    head = ["time", "from", "steps", "took", "steps done again", "arguments that changed", "ended"]
    return Table("starts", "Starts and resumes", head, rows, frozenset({4}), empty="The journal tells of no start.")


def checkpoints(run: ReadRun) -> Table:
    """Return the checkpoints that are in the folder, and then those that were written and removed."""
    reasons = {Path(item.what).name: item for item in run.record.saves}
    rows, there = [], set()
    for entry in run.checkpoints:
        saved = reasons.get(entry.name)
        there.add(entry.name)
        state = "whole" if entry.reason is None else f"not whole: {entry.reason}"
        marks = [word for word, holds in (("best", entry.is_best), ("newest", entry.is_newest)) if holds]
        when = entry.committed_at / 1e9 if entry.committed_at else None
        because = (saved.reason if saved else None) or ""
        size = size_text(entry.size_bytes)
        rows.append(
            [entry.name, f"{entry.step:,}", _clock(when), because, size, entry.metric or "", ", ".join([*marks, state])]
        )
    gone = [item for name, item in reasons.items() if name not in there]
    rows += [
        [Path(item.what).name, f"{item.step:,}", _clock(item.time), item.reason or "", "", "", "removed since"]
        for item in gone
    ]
    rows.sort(key=lambda row: (row[0] not in there, int(row[1].replace(",", ""))))
    head = ["name", "step", "time", "because", "size", "evaluation", "state"]
    return Table("checkpoints", "Checkpoints", head, rows, frozenset({1, 4}), empty="The run has saved no checkpoint.")


def costs(run: ReadRun) -> Table:
    """Return what each callback has cost, over all starts."""
    sums: dict[str, dict[str, float]] = {}
    remarks: dict[str, str] = {}
    for start in run.record.starts:
        for name, cost in start.costs.items():
            total = sums.setdefault(str(name), {})
            for key in ("calls", "seconds", "background_s", "dropped", "failures"):
                given = cost.get(key)
                values: list[Any] = [*given.values()] if isinstance(given, dict) else [given]
                total[key] = total.get(key, 0) + sum(value for value in values if is_number(value))
            if cost.get("detached_after") is not None:
                remarks[str(name)] = f"detached after {cost['detached_after']} failures"
    seconds = run.record.hours * 3600
    rows = [
        [
            name,
            f"{total['calls']:,.0f}",
            f"{total['seconds']:.3f}",
            f"{100 * total['seconds'] / seconds:.2f} %" if seconds > 0 else "",
            f"{total['background_s']:.3f}",
            f"{total['dropped']:,.0f}",
            remarks.get(name) or (f"{total['failures']:,.0f} failures" if total["failures"] else ""),
        ]
        for name, total in sorted(sums.items(), key=lambda item: -item[1]["seconds"])
    ]
    head = ["callback", "calls", "seconds", "share of the run", "seconds in the background", "left out", "remarks"]
    note = "Training waits for the seconds, and not for those in the background." if rows else ""
    empty = "The journal has no costs."
    return Table("costs", "What callbacks cost", head, rows, frozenset({1, 2, 3, 4, 5}), note, empty)


def last_evaluations(runs: Sequence[ReadRun], names: Sequence[str]) -> Table:
    """Return the last evaluation of each run: one row for each."""
    last = [max(run.record.evaluations, key=lambda item: item.step, default=None) for run in runs]
    items = [item for item in last if item is not None]
    metrics = [name for name in dict.fromkeys(key for item in items for key in item.what) if _is_metric(name, items)]
    head = ["run", "step", *(name.removeprefix("eval_") for name in metrics)]
    rows = [
        [name, f"{item.step:,}", *(number(item.what.get(metric)) for metric in metrics)]
        for name, item in zip(names, last, strict=True)
        if item is not None
    ]
    numbers = frozenset(range(1, len(head)))
    return Table("last", "Last evaluation of each", head, rows, numbers, empty="None of the runs was evaluated.")


def differing(runs: Sequence[ReadRun], names: Sequence[str]) -> Table:
    """Return the arguments that are not the same in all runs."""
    rows = []
    for name in dict.fromkeys(name for run in runs for name in run.args):
        cells = [value_text(run.args[name]) if name in run.args else "" for run in runs]
        if len(set(cells)) > 1 and name not in ("output_dir", "logging_dir", "run_name"):
            rows.append([name, *cells])
    head = ["argument", *names]
    return Table("differences", "Arguments that differ", head, rows, empty="The runs have the same arguments.")


def _given(changed: Mapping[str, tuple[Any, Any]]) -> Table:
    rows = [[name, value_text(value), value_text(default)] for name, (value, default) in changed.items()]
    head = ["argument", "value", "default"]
    return Table("arguments", "Arguments that are not at their default", head, rows, empty="All are at their default.")


def _rest(others: Mapping[str, Any]) -> Table:
    rows = [[name, value_text(value)] for name, value in others.items()]
    return Table("defaults", "Arguments at their default", ["argument", "value"], rows, is_long=True)


# -- text -------------------------------------------------------------------------------------------------------------


def ending_of(run: ReadRun) -> str:
    """Return how a run stands, in words."""
    if run.is_running:
        return "running"
    if not run.record.starts:
        most = int(run.record.state.get("max_steps") or 0)
        return (
            "completed"
            if most and run.record.step >= most
            else f"not known; its checkpoints end at {run.record.step:,}"
        )
    return _end(run.record.starts[-1])


def _end(start: Start) -> str:
    if start.exception is not None:
        return f"failed: {short(start.exception)}"
    if not start.has_ended:
        return f"cut off at step {start.last_step:,}, without an end in the journal"
    return f"stopped: {short(start.stop_reason)}" if start.stop_reason else "completed"


def _is_metric(name: str, items: Sequence[Any]) -> bool:
    values = [item.what.get(name) for item in items]
    return name != "epoch" and not name.endswith(HIDDEN) and any(is_number(value) for value in values)


def _pairs(differences: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    """Return the differences that have an old and a new value."""
    pairs = [(str(name), value) for name, value in differences.items()]
    return [
        (name, (value[0], value[1])) for name, value in pairs if isinstance(value, list | tuple) and len(value) == 2
    ]


def number(value: Any) -> str:
    """Return a number as text.

    Example:
        >>> number(0.123456), number(12), number(None), number(1.5e-9)
        ('0.12346', '12', '', '1.5e-09')
    """
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else short(str(value))


def value_text(value: Any) -> str:
    """Return a value of an argument as JSON, cut if it is long.

    Example:
        >>> value_text(None), value_text("no"), value_text({"a": [1]})
        ('null', 'no', '{"a": [1]}')
    """
    return short(value if isinstance(value, str) else json.dumps(value, default=str))


def short(text: str) -> str:
    """Return a text, cut if it is long."""
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits.

    Example:
        >>> duration(0.4), duration(75), duration(5400), duration(200000)
        ('0.4 s', '75 s', '90 min', '55.6 h')
    """
    for limit, unit, length in ((10, "s", 1), (120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / length:.{1 if limit == 10 else 0}f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _clock(seconds: float | None) -> str:
    if not seconds:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return ""
