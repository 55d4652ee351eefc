"""Trackers, and what they hold, each read with its tool's own reader: name of a curve, its points in the tool's order.

A step that a tool shows twice is two points here, and so differs from what `curves_of` says that it has to show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trackside import CometCallback, MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback
from trackside.integrations._base.metric_names import numbers_in, rewrite_logs

Curves = dict[str, list[tuple[int, float]]]

GROUPS = ("train/", "eval/", "test/")

WANDB_QUIET = {"silent": True, "console": "off", "x_disable_stats": True, "x_disable_meta": True}


def curves_of(log_history: list[dict[str, Any]]) -> Curves:
    """Return the curves that a tracker has to show of a history: value by value, step by step."""
    shown = [(record["step"], numbers_in(rewrite_logs(record))) for record in log_history]
    return _curves((name, step, value) for step, numbers in shown for name, value in numbers.items())


def as_float32(curves: Curves) -> Curves:
    """Return what is left of the values in a tool that keeps 32 bits, as TensorBoard does."""
    return {name: [(step, float(np.float32(value))) for step, value in points] for name, points in curves.items()}


def read_tensorboard(folder: str | Path) -> Curves:
    """Read the event files of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    scalars = [(tag, point.step, point.value) for tag in events.Tags()["scalars"] for point in events.Scalars(tag)]
    tensors = [
        (tag, point.step, make_ndarray(point.tensor_proto))  # as TensorFlow 2 writes numbers, and texts
        for tag in events.Tags()["tensors"]
        for point in events.Tensors(tag)
    ]
    points = [(tag, step, float(value)) for tag, step, value in tensors if value.dtype.kind == "f" and not value.shape]
    return _curves([*scalars, *points])


def read_wandb(*paths: Path) -> Curves:
    """Read .wandb files, such as the parts of one offline run."""
    from trackside.integrations._compat.wandb_datastore import read_history

    rows = [item for path in paths for item in read_history(path)]
    return _curves(
        (name, step, float(value))
        for step, row in rows
        for name, value in row.items()
        if name.startswith(GROUPS) and not isinstance(value, dict)
    )


def read_mlflow(uri: str, run_id: str) -> Curves:
    """Ask MLflow's client for every metric of a run."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    names = client.get_run(run_id).data.metrics
    return _curves((name, p.step, p.value) for name in names for p in client.get_metric_history(run_id, name))


def read_comet(*paths: Path) -> Curves:
    """Read the zip files of an offline experiment."""
    from trackside.integrations._compat.comet_archive import read_metrics

    return _curves(point for path in paths for point in read_metrics(path) if point[0].startswith(GROUPS))


def read_trackio(project: str, name: str) -> Curves:
    """Ask Trackio's storage for every row of a run."""
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs(project, name)
    return _curves((key, row["step"], row[key]) for row in rows for key in row if key.startswith(GROUPS))


def _curves(points: Iterable[tuple[str, int, float]] | Iterator[tuple[str, int, float]]) -> Curves:
    curves: Curves = {}
    for name, step, value in points:
        curves.setdefault(name, []).append((step, value))
    return curves


class Tool(NamedTuple):
    """A tracker that writes below the working folder, and how to read what it wrote there."""

    package: str
    make: Callable[[], Any]
    read: Callable[[Any], Curves]
    kept: Callable[[Curves], Curves] = dict
    """What is left of the values in this tool."""


TOOLS = {
    "tensorboard": Tool(
        "tensorboard",
        lambda: TensorBoardCallback("tensorboard"),
        lambda tracker: read_tensorboard(tracker.run_dir),
        as_float32,
    ),
    "wandb": Tool(
        "wandb",
        lambda: WandbCallback(mode="offline", settings=WANDB_QUIET),
        lambda tracker: read_wandb(*by_age(f"out/wandb/offline-run-*/run-{tracker.run_id}.wandb")),
    ),
    "mlflow": Tool(
        "mlflow",
        lambda: MLflowCallback(database_here()),
        lambda tracker: read_mlflow(database_here(), tracker.run_id),
    ),
    "comet": Tool(
        "comet_ml",
        lambda: CometCallback(online=False),
        lambda tracker: read_comet(*by_age(f"out/comet/{tracker.run_id}*.zip")),
    ),
    "trackio": Tool("trackio", TrackioCallback, lambda tracker: read_trackio(tracker.project, tracker.trackio_name)),
}


def database_here() -> str:
    """Return the address of MLflow's database in the working folder."""
    return f"sqlite:///{Path.cwd()}/mlflow.db"


def by_age(pattern: str) -> list[Path]:
    """Return the files of a pattern below the working folder, the oldest first."""
    return sorted(Path().glob(pattern), key=lambda path: path.stat().st_mtime_ns)
