"""The main job: it reaches its accuracy, goes on where it was stopped, and shows in TensorBoard as it was logged."""

from __future__ import annotations

import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from support.fork_process import Fork
from support.tracker_readers import as_float32, curves_of, read_tensorboard, read_wandb

from trackside.callbacks.builtin.journal import read_journal
from trackside.callbacks.replay import last_run
from trackside.testing.tiny_trainer import FRAMEWORKS, installed_frameworks

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples" / "demo.py"

pytestmark = pytest.mark.slow


def start(folder, *options, framework="pytorch"):
    """Start the demo in ``folder``."""
    return Fork(FRAMEWORKS[framework], [str(DEMO), "--only", framework, *options], folder)


def finish(process):
    """Wait for the demo and return what it printed."""
    assert process.wait(240) == 0, process.output + process.errors
    return process.output


def results(folder, output="demo_output"):
    return json.loads((folder / output / "all_results.json").read_text())


OUTPUTS = {"pytorch": "demo_output", "tensorflow": "demo_output_tf"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the demo of one framework, once for all tests; return its folder and what it printed."""
    pytest.importorskip("sklearn")

    @functools.cache
    def run(framework):
        if framework not in installed_frameworks():
            pytest.skip(f"{framework} is not installed")
        folder = tmp_path_factory.mktemp(framework)
        process = start(folder, framework=framework)
        finish(process)
        return folder, process.output + process.errors

    return run


def history(output):
    """Return every record of a run."""
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


@pytest.mark.parametrize("framework", OUTPUTS)
def test_the_demo_stops_early_and_is_right_on_97_of_100_digits(demo, framework):
    folder, text = demo(framework)
    output = OUTPUTS[framework]

    accuracy = results(folder, output)["test_accuracy"]

    assert accuracy >= 0.97
    assert "has not improved" in text
    assert "steps/s" in text
    assert f"tensorboard --logdir {output}/runs/" in text
    assert f"{accuracy:.4f}" in text.split("Side by side")[1]
    assert (folder / output / "loss_curve.png").exists()


@pytest.mark.parametrize("framework", OUTPUTS)
def test_the_readme_shows_what_the_demo_prints(demo, framework):
    pictures = runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))
    (shown,) = pictures["RESULTS"].findall((ROOT / "README.md").read_text(encoding="utf-8"))

    lines, printed = shown.splitlines(), pictures["results_of"](demo(framework)[1]).splitlines()

    assert [line[:11] for line in printed] == [line[:11] for line in lines]
    rows = {name: numbers for name, *numbers in map(str.split, lines[-6:])}
    assert [len(numbers) for numbers in rows.values()] == [2] * 6
    assert min(map(float, rows["test_accuracy"])) >= 0.97


@pytest.mark.parametrize("framework", OUTPUTS)
def test_its_journal_replayed_into_tensorboard_and_wandb_gives_the_curves_of_its_own_run(demo, framework):
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    folder, _ = demo(framework)
    output = folder / OUTPUTS[framework]
    command = [sys.executable, "-m", "trackside", "replay", str(output / "journal.jsonl")]

    done = subprocess.run(
        [*command, "--callback", "tensorboard", "--callback", "wandb"],
        env={**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        timeout=180,
    )

    assert done.returncode == 0, done.stderr
    (live,), (again,) = ((at / "runs").iterdir() for at in (output, output / "replay"))
    assert read_tensorboard(again) == read_tensorboard(live)
    logged = read_wandb(*output.glob("replay/wandb/offline-run-*/*.wandb"))
    assert without_predictions(logged) == curves_of(history(output))
    assert len(read_tensorboard(live)["eval/accuracy"]) > 6


def test_tensorboards_page_serves_the_scalars_of_its_log_history(demo, tmp_path):
    pytest.importorskip("tensorboard")
    serving = runpy.run_path(str(ROOT / "docs" / "make_pictures.py"))["serving"]
    outputs = {name: demo(name)[0] / OUTPUTS[name] for name in installed_frameworks()}
    runs = tmp_path / "runs"
    runs.mkdir()
    for name, output in outputs.items():
        (runs / name).symlink_to(next((output / "runs").iterdir()))

    with serving(runs) as address:
        page = urlopen(address).read().decode()
        served = {name: scalars_of(address, name) for name in outputs}

    assert "<title>TensorBoard</title>" in page
    found = {name: without_predictions(curves) for name, curves in served.items()}
    assert found == {name: as_float32(curves_of(history(output))) for name, output in outputs.items()}


def without_predictions(curves):
    """Return the curves of the history; trackers also have the metrics of predict(), which are not part of it."""
    assert "test/loss" in curves
    return {name: curve for name, curve in curves.items() if not name.startswith("test/")}


def scalars_of(address, run):
    """Return every curve of a run as the page gets it."""

    def get(path, **query):
        return json.load(urlopen(f"{address}data/{path}?{urlencode(query)}"))

    deadline = time.monotonic() + 60
    while "train/total_flos" not in get("plugin/scalars/tags").get(run, {}):  # the last that was written
        assert time.monotonic() < deadline
        time.sleep(0.2)
    tags = get("plugin/scalars/tags")[run]
    points = {tag: get("plugin/scalars/scalars", run=run, tag=tag) for tag in tags}
    return {tag: [(step, value) for _, step, value in rows] for tag, rows in points.items()}


def test_a_demo_that_is_killed_and_run_again_ends_as_if_nothing_had_happened(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    short = ("--num_train_epochs", "6")
    finish(start(whole, *short))
    process = start(killed, *short)
    deadline = time.monotonic() + 120
    while not (killed / "demo_output" / "checkpoint-68").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.output + process.errors
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    again = finish(start(killed, *short))

    assert "going on from the newest checkpoint" in again
    compared = ("test_accuracy", "test_loss", "eval_loss", "train_loss")
    assert [results(killed)[name] for name in compared] == [results(whole)[name] for name in compared]
    journal = last_run(read_journal(killed / "demo_output" / "journal.jsonl"))
    records = [{**entry["logs"], "step": entry["step"]} for entry in journal if entry["event"] == "on_log"]
    assert records == history(killed / "demo_output")
    monkeypatch.chdir(killed)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert runpy.run_path(str(DEMO))["run"]("pytorch", ["--max_steps", "1"]) == 0
    assert "is cleared for a new one" in capsys.readouterr().out
