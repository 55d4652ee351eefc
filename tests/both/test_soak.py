"""Two hundred trainings in one process, with trackers, signals, failing observers and a full disk, leave nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.fork_process import TESTS, Fork

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc"),
]


@pytest.mark.parametrize(
    ("framework", "runs", "mib"),
    [
        pytest.param("pytorch", 150, 24, id="pytorch"),
        pytest.param("tensorflow", 50, 100, id="tensorflow"),  # Keras' own fit, compiled anew, grows by 130 in as many
    ],
)
def test_two_hundred_trainings_leave_nothing(framework, runs, mib, tmp_path):
    for package in ("wandb", "mlflow", "tensorboard"):
        pytest.importorskip(package)
    imported = {"pytorch": "torch"}.get(framework, framework)
    worker = [str(TESTS / "workers" / "soak_worker.py"), framework, str(runs)]
    process = Fork(
        imported, worker, tmp_path, {**os.environ, "WANDB_MODE": "offline"}
    )  # other tests' memory is not there

    assert process.wait(280) == 0, process.errors
    found = json.loads(process.output.splitlines()[-1])
    assert found["left"] == {}
    assert found["mib"] < mib
    assert found["handlers_are_back"]
