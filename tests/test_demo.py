"""The main job: it reaches its accuracy, and it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"

pytestmark = pytest.mark.slow


def start(folder, *options, framework="pytorch"):
    """Start the demo of one framework in ``folder``."""
    return subprocess.Popen(
        [sys.executable, str(DEMO), "--only", framework, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Wait for the demo and return what it printed."""
    text, _ = process.communicate(timeout=240)
    assert process.returncode == 0, text
    return text


def results(folder, output="demo_output"):
    return json.loads((folder / output / "all_results.json").read_text())


@pytest.mark.parametrize(("framework", "output"), [("pytorch", "demo_output"), ("tensorflow", "demo_output_tf")])
def test_the_demo_stops_early_and_is_right_on_97_of_100_digits(tmp_path, framework, output):
    pytest.importorskip("sklearn")

    text = finish(start(tmp_path, framework=framework))

    assert results(tmp_path, output)["test_accuracy"] >= 0.97
    assert "has not improved" in text
    assert "steps/s" in text
    assert f"tensorboard --logdir {output}/runs/" in text
    assert f"{results(tmp_path, output)['test_accuracy']:.4f}" in text.split("Side by side")[1]
    assert (tmp_path / output / "loss_curve.png").exists()


def test_a_demo_that_is_killed_and_run_again_ends_as_if_nothing_had_happened(tmp_path):
    pytest.importorskip("sklearn")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    short = ("--num_train_epochs", "8")
    finish(start(whole, *short))
    process = start(killed, *short)
    deadline = time.monotonic() + 120
    while not (killed / "demo_output" / "checkpoint-102").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.communicate()

    again = finish(start(killed, *short))

    assert "going on from the newest checkpoint" in again
    compared = ("test_accuracy", "test_loss", "eval_loss", "train_loss")
    assert [results(killed)[name] for name in compared] == [results(whole)[name] for name in compared]
    assert "is cleared for a new one" in finish(start(killed, "--max_steps", "1"))
