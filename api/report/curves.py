"""Curves of a page: one figure for each metric, with the curves of all runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trackside.callbacks.metrics import SPEEDS
from trackside.report.reading import ReadRun, is_evaluation
from trackside.report.run_record import Record, is_number

MOST_POINTS = 2000
"""Points of a curve that are drawn; of a longer one, the extremes of equal stretches."""

MOST_FIGURES = 40
"""Figures of a page."""

HIDDEN = (*SPEEDS, "total_flos", "_steps", "num_input_tokens_seen")
"""Endings of logged values that are not drawn."""

OF_WHOLE_RUN = "train_"
"""Beginning of the values that are logged once, at the end of a run."""

FIRST = ("loss", "eval_loss", "eval_accuracy", "eval_f1", "learning_rate", "updates_per_s", "grad_norm")
"""Figures that come first, in this order; losses are drawn together."""

THROUGHPUT = "updates_per_s"

TITLES = {"loss": "Loss", "learning_rate": "Learning rate", THROUGHPUT: "Throughput", "grad_norm": "Gradient norm"}

UNITS = {THROUGHPUT: "updates per second"}

NOTES = {
    THROUGHPUT: "Updates per second between two records of the training loss, evaluations and checkpoints included."
}

Point = tuple[int, float | None, float | None, float]
"""Step, epoch, hours and value."""


def figures(runs: Sequence[ReadRun]) -> tuple[list[dict[str, Any]], int]:
    """Return the figures of a page as JSON values, and the number of metrics that have none.

    A figure has a ``key``, a ``title``, a ``unit``, a ``note``, its curves in ``words``, and ``curves``: each has the
    number of its ``run``, its ``name``, and the lists ``step``, ``epoch``, ``hours`` and ``value``.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        for name, points in curves_of(run.record.records).items():
            found.setdefault(_figure_of(name), []).append(_curve(number, name, points))
    order = sorted(found, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))
    shown = [_figure(key, found[key], runs) for key in order[:MOST_FIGURES]]
    return shown, len(order) - len(shown)


def curves_of(records: Sequence[Record]) -> dict[str, list[Point]]:
    """Return the points of each logged number, and of the throughput."""
    curves: dict[str, list[Point]] = {}
    before: Record | None = None
    for record in records:
        for name, value in record.values.items():
            if name.endswith(HIDDEN) or name.startswith(OF_WHOLE_RUN) or not is_number(value):
                continue
            curves.setdefault(str(name), []).append((record.step, record.epoch, record.hours, float(value)))
        if "loss" in record.values and not is_evaluation(record.values):
            if before is not None and (rate := _rate(before, record)) is not None:
                curves.setdefault(THROUGHPUT, []).append((record.step, record.epoch, record.hours, rate))
            before = record
    return curves


def _rate(before: Record, record: Record) -> float | None:
    """Return the updates per second between two records of one start; None if it is not known."""
    if before.start != record.start or before.hours is None or record.hours is None:
        return None
    seconds = (record.hours - before.hours) * 3600
    return (record.step - before.step) / seconds if seconds > 0 and record.step > before.step else None


def _figure_of(name: str) -> str:
    return "loss" if name in ("loss", "eval_loss") or (name.startswith("eval_") and name.endswith("_loss")) else name


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return about ``most`` points: the extremes of equal stretches, the first and the last.

    Example:
        >>> [step for step, _, _, _ in thinned([(step, None, None, float(step == 7)) for step in range(12)], 4)]
        [0, 6, 7, 11]
    """
    if len(points) <= most:
        return list(points)
    kept = {0, len(points) - 1}
    stretches = most // 2
    for number in range(stretches):
        stretch = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        finite = [index for index in stretch if math.isfinite(points[index][3])] or stretch[:1]
        kept |= {min(finite, key=lambda index: points[index][3]), max(finite, key=lambda index: points[index][3])}
    return [points[index] for index in sorted(kept)]


def _curve(run: int, name: str, points: Sequence[Point]) -> dict[str, Any]:
    finite = [point[3] for point in points if math.isfinite(point[3])]
    drawn = thinned(points)
    return {
        "run": run,
        "name": name,
        "step": [point[0] for point in drawn],
        "epoch": [_finite(point[1]) for point in drawn],
        "hours": [_finite(point[2]) for point in drawn],
        "value": [_finite(point[3]) for point in drawn],
        "count": len(points),
        "not_finite": len(points) - len(finite),
        "first": finite[0] if finite else None,
        "last": finite[-1] if finite else None,
        "low": min(finite, default=None),
        "high": max(finite, default=None),
    }


def _finite(value: float | None) -> float | None:
    """Return a number that JSON has, or None."""
    return value if value is not None and is_number(value) and math.isfinite(value) else None


def _figure(key: str, curves: list[dict[str, Any]], runs: Sequence[ReadRun]) -> dict[str, Any]:
    return {
        "key": key,
        "title": TITLES.get(key) or (f"{key.removeprefix('eval_')} (evaluation)" if key.startswith("eval_") else key),
        "unit": UNITS.get(key, ""),
        "note": NOTES.get(key, ""),
        "words": [_in_words(curve, runs) for curve in curves],
        "curves": curves,
    }


def _in_words(curve: dict[str, Any], runs: Sequence[ReadRun]) -> str:
    """Return a curve in words, for those who do not see it."""
    of = f" of {runs[curve['run']].name}" if len(runs) > 1 else ""
    if curve["first"] is None:
        return f"{curve['name']}{of}: no finite value."
    words = f"{curve['name']}{of}: from {curve['first']:.4g} to {curve['last']:.4g}"
    words += f", lowest {curve['low']:.4g}, highest {curve['high']:.4g}"
    if curve["not_finite"]:
        words += f", {curve['not_finite']} not finite"
    if len(curve["step"]) < curve["count"]:
        words += f"; {len(curve['step'])} of {curve['count']} points are drawn, the extremes of equal stretches"
    return f"{words}."
