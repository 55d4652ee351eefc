"""Every tracker on either trainer: what its tool's own reader finds is the history, value by value and step by step."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tracker_readers import as_float32, curves_of, read_comet, read_mlflow, read_tensorboard, read_trackio, read_wandb

from trackside import (
    CometCallback,
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    TrainerCallback,
    WandbCallback,
)

NAMES = {
    *("train/loss", "train/grad_norm", "train/learning_rate", "train/epoch"),
    *("eval/loss", "eval/accuracy", "eval/runtime", "eval/samples_per_second", "eval/steps_per_second"),
    *("train/train_loss", "train/train_runtime", "train/total_flos"),
    *("train/train_samples_per_second", "train/train_steps_per_second"),
}
QUIET = {"silent": True, "console": "off", "x_disable_stats": True, "x_disable_meta": True}


class Tool(NamedTuple):
    """A tracker that writes below the working folder, and how to read what it wrote there."""

    make: Callable[[], Any]
    read: Callable[[Any], Any]
    kept: Callable[[Any], Any] = dict
    """What is left of the values in this tool."""


TOOLS = {
    "tensorboard": Tool(
        lambda: TensorBoardCallback("tensorboard"), lambda tracker: read_tensorboard(tracker.run_dir), as_float32
    ),
    "wandb": Tool(
        lambda: WandbCallback(mode="offline", settings=QUIET),
        lambda tracker: read_wandb(*by_age(f"out/wandb/offline-run-*/run-{tracker.run_id}.wandb")),
    ),
    "mlflow": Tool(
        lambda: MLflowCallback("sqlite:///mlflow.db"),
        lambda tracker: read_mlflow("sqlite:///mlflow.db", tracker.run_id),
    ),
    "comet": Tool(
        lambda: CometCallback(online=False), lambda tracker: read_comet(*by_age(f"out/comet/{tracker.run_id}*.zip"))
    ),
    "trackio": Tool(TrackioCallback, lambda tracker: read_trackio(tracker.project, tracker.trackio_name)),
}


def by_age(pattern: str) -> list[Path]:
    return sorted(Path().glob(pattern), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(autouse=True)
def _in_this_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    if importlib.util.find_spec("trackio"):
        from trackio import sqlite_storage, utils

        for module in (sqlite_storage, utils):  # which had read the environment when they were imported
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")


@pytest.fixture(params=TOOLS)
def tool(request):
    package = {"comet": "comet_ml"}.get(request.param, request.param)
    pytest.importorskip(package)
    return TOOLS[request.param]


class RaisesAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("boom")


def test_a_run_reads_back_as_its_history_under_the_same_names_in_every_tool(make_trainer, tool):
    trainer = make_trainer(tracker := tool.make())
    trainer.train()

    shown = tool.read(tracker)
    assert shown == tool.kept(curves_of(trainer.state.log_history))
    assert set(shown) == NAMES
    assert trainer.callback_report[tracker.name].failures == 0


def test_after_a_resume_no_step_is_shown_twice(make_trainer, tool):
    with pytest.raises(RuntimeError, match="boom"):
        make_trainer(tool.make(), RaisesAt(9)).train()  # three steps after the checkpoint of step 6
    second = make_trainer(tracker := tool.make())
    second.train(resume_from_checkpoint=True)

    shown = tool.read(tracker)
    assert [step for step, _ in shown["train/loss"]] == [2, 4, 6, 8, 10, 12]
    assert shown == tool.kept(curves_of(second.state.log_history))


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
from trackside import TrainerCallback
from trackside.tiny import tiny_trainer
from trackside_read_back import TOOLS

class Kills(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)

tiny_trainer({framework!r}, "out", [*(tool.make() for tool in TOOLS.values()), Kills()]).train()
"""


@pytest.mark.slow
def test_after_a_sigkill_every_tool_shows_every_step_once(make_trainer, framework):
    for package in ("tensorboard", "wandb", "mlflow", "comet_ml", "trackio"):
        pytest.importorskip(package)
    Path("trackside_read_back.py").write_text(Path(__file__).read_text())
    code = KILLED.format(path=[str(Path.cwd()), *sys.path], framework=framework)
    killed = subprocess.run([sys.executable, "-c", code], timeout=280, check=False)
    trackers = {name: tool.make() for name, tool in TOOLS.items()}
    second = make_trainer(*trackers.values())
    second.train(resume_from_checkpoint=True)

    assert killed.returncode == -9
    for name, tracker in trackers.items():
        assert TOOLS[name].read(tracker) == TOOLS[name].kept(curves_of(second.state.log_history)), name
        assert second.callback_report[name].failures == 0
