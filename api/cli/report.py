"""The report of a run: the summary at its end, and a picture of its loss curve."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from trackside.callbacks._util.display import table
from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.bus.report import costs
from trackside.callbacks.metrics import SPEEDS

if TYPE_CHECKING:
    from trackside.callbacks.state import TrainerState
    from trackside.trainer.base_trainer import BaseTrainer

Row = tuple[str, str]

LOSS_CURVE = "loss_curve.png"


def summary(trainer: BaseTrainer, results: Mapping[str, Mapping[str, float]], picture: Path | None = None) -> str:
    """Return the summary of a run: how it ended, metrics, speed, files that it leaves, and the cost of each callback.

    Args:
        trainer: A trainer that has trained.
        results: Metrics by split: "train", "eval", "test".
        picture: File of the loss curve, if it was drawn.
    """
    train = results.get("train", {})
    sections = [
        ("Run", [*_ending(trainer.state), *_speed(train)]),
        ("Metrics", [(name, metrics_line(metrics, name)) for name, metrics in results.items()]),
        ("Files", _files(trainer, picture)),
    ]
    blocks = [block(title, rows) for title, rows in sections if rows]
    return "\n\n".join([*blocks, costs(trainer.callback_report, train.get("train_runtime", 0.0))])


def metrics_line(metrics: Mapping[str, float], prefix: str) -> str:
    """Return metrics in one line, without speeds and without ``prefix``.

    Example:
        >>> metrics_line({"eval_loss": 0.25, "eval_accuracy": 0.9861, "eval_runtime": 0.1, "epoch": 3.0}, "eval")
        'loss 0.2500  accuracy 0.9861'
    """
    hidden = (*SPEEDS, "total_flos", "epoch")
    shown = {name: value for name, value in metrics.items() if not name.endswith(hidden)}
    return "  ".join(f"{name.removeprefix(f'{prefix}_')} {_number(value)}" for name, value in shown.items())


def draw_loss_curve(log_history: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw losses and evaluation accuracy over the steps; return ``path``, or None if matplotlib is not installed."""
    if not is_installed("matplotlib"):
        return None
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns when it rebuilds its cache of fonts
    from matplotlib.figure import Figure  # pyplot looks for a display and keeps figures in memory

    figure = Figure(figsize=(7, 4), layout="constrained")
    losses = figure.add_subplot(xlabel="step", ylabel="loss")
    for key, label, style in (("loss", "train loss", "C0-"), ("eval_loss", "eval loss", "C1o-")):
        if points := curve(log_history, key):
            losses.plot(*zip(*points, strict=True), style, label=label, markersize=3)
    if points := curve(log_history, "eval_accuracy"):
        accuracies = losses.twinx()
        accuracies.set_ylabel("accuracy")
        accuracies.plot(*zip(*points, strict=True), "C2s--", label="eval accuracy", markersize=3)
    if all(value > 0 for key in ("loss", "eval_loss") for _, value in curve(log_history, key)):
        losses.set_yscale("log")  # keeps the small losses of a long run apart
    losses.grid(alpha=0.3)
    if any(axes.lines for axes in figure.axes):
        figure.legend(loc="outside upper center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def curve(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return the ``(step, value)`` pairs of one metric, without those that are not numbers.

    Example:
        >>> curve([{"loss": 2.0, "step": 10}, {"eval_loss": 1.9, "step": 10}, {"loss": 1.5, "step": 20}], "loss")
        [(10, 2.0), (20, 1.5)]
    """
    found = [(record.get("step"), record.get(key)) for record in log_history]
    return [(step, value) for step, value in found if _is_number(step) and _is_number(value)]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > sys.float_info.max


def _ending(state: TrainerState) -> list[Row]:
    at = f"step {state.global_step} of {state.max_steps}, epoch {state.epoch or 0:.4g}"
    rows = [("ended at", at if state.stop_reason is None else f"{at}: {state.stop_reason}")]
    if state.best_metric is not None:
        rows.append(("best", f"{_number(state.best_metric)} at step {state.best_global_step}"))
    return rows


def _speed(train: Mapping[str, float]) -> list[Row]:
    if "train_runtime" not in train:
        return []
    steps, examples = train.get("train_steps_per_second", 0.0), train.get("train_samples_per_second", 0.0)
    return [("speed", f"{steps:.1f} steps/s, {examples:.0f} examples/s, {train['train_runtime']:.1f} s in all")]


def _files(trainer: BaseTrainer, picture: Path | None) -> list[Row]:
    from trackside.trainer.checkpointing.discovery import find_checkpoints
    from trackside.trainer.staging import address_of, as_given

    if trainer.args.fast_dev_run:
        return []
    output_dir = trainer.args.output_dir
    best = trainer.state.best_model_checkpoint
    names = [path.name for path in find_checkpoints(output_dir)]
    checkpoints = [f"{name} (best)" if best and Path(best).name == name else name for name in names]
    rows = [("output", address_of(output_dir))]
    if checkpoints:
        rows.append(("checkpoints", ", ".join(checkpoints)))
    if picture is not None:
        rows.append(("loss curve", as_given(picture, output_dir)))
    if "tensorboard" in trainer.callback_report:
        callback = trainer.callback_report["tensorboard"].callback
        folder = getattr(callback, "run_dir", None) or trainer.args.logging_dir
        rows.append(("tensorboard", f"tensorboard --logdir {shlex.quote(as_given(folder, output_dir))}"))
    return rows


def block(title: str, rows: Iterable[Sequence[str]]) -> str:
    """Return rows in columns, indented, below a title."""
    return f"{title}\n" + table([(f"  {first}", *rest) for first, *rest in rows])


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
