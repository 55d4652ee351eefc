"""Ray Tune itself trains the trials of a search in its own processes: `tox -e ray` runs this."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="ray is not installed; tox -e ray installs it")

SCRIPT = Path(__file__).resolve().parents[1] / "workers" / "ray_worker.py"


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_trials_in_processes_of_ray_come_to_what_training_here_comes_to(framework, tmp_path):
    pytest.importorskip("torch" if framework == "pytorch" else framework)

    done = subprocess.run(
        [sys.executable, SCRIPT, framework, tmp_path], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["best"] == {"learning_rate": 0.05}
    assert found["objective"] == found["again"]
    # each trial has its folder, the callbacks that were given, and those attached and removed later
    marks = {path.parent.name: path.read_text() for path in (tmp_path / "out").glob("run-*/mark")}
    rates = {tuple(text.split()[:2]) for text in marks.values()}
    assert rates == {("given", "1e-06"), ("given", "0.05")}
    assert all(text.split()[2] == name for name, text in marks.items())
    assert all((tmp_path / "out" / name / "log.csv").is_file() for name in marks)
    assert found["names"] == ["marks", "later"]
    assert found["error"] == "learning_rate=-1.0 is not allowed: a finite number, at least 0"
