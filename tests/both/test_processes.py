"""A process that is killed loses nothing that was committed; one that gets a signal saves, and stops."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from trackside.trainer.checkpoint import newest_valid

SCRIPT = """
    import sys, time
    from {parts} import *
    from trackside import {trainer}, {args}, TrainerCallback

    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep({sleep})
            print("step", state.global_step, flush=True)

    args = {args}(sys.argv[1], num_train_epochs=4, save_strategy="steps", save_steps=2, logging_steps=3,
        disable_tqdm=True, resume_from_checkpoint=True, learning_rate=1e-2)
    trainer = {trainer}(mlp(dropout=0.3), args, train_dataset=classified(64), loss_fn={loss}, callbacks=[Slow()])
    trainer.pop_callback("printer")
    trainer.train()
    print("done", trainer.state.global_step, trainer.state.stop_reason, float(weights_of(trainer.model).sum()))
"""
NAMES = {
    "torch": {
        "parts": "pytorch_parts",
        "trainer": "Trainer",
        "args": "TrainingArguments",
        "loss": "nn.CrossEntropyLoss()",
    },
    "tensorflow": {
        "parts": "tensorflow_parts",
        "trainer": "TFTrainer",
        "args": "TFTrainingArguments",
        "loss": "LOSS",
    },
}


@pytest.fixture(params=NAMES)
def start(request: pytest.FixtureRequest) -> Any:
    """Return a function that starts a run of 32 steps in a process of its own."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")

    def start(folder: Path, sleep: float = 0.0) -> subprocess.Popen[str]:
        code = textwrap.dedent(SCRIPT.format(sleep=sleep, **NAMES[request.param]))
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    return start


def last_line(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    return output.strip().splitlines()[-1]


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        if text.strip() == line:
            return
    raise AssertionError(f"the process ended before it printed {line!r}")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_one_that_was_not(start, tmp_path, request):
    kills = 2 if "torch" in request.node.name else 1  # a process with TensorFlow takes its time to begin
    expected = last_line(start(tmp_path / "whole"))

    for step, pause_s in [(13, 0.004), (27, 0.013)][:kills]:
        process = start(tmp_path / "killed", sleep=0.01)
        wait_for(process, f"step {step}")
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert newest_valid(tmp_path / "killed")[0] is not None

    assert last_line(start(tmp_path / "killed")) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step_and_stops(start, tmp_path, number):
    process = start(tmp_path / "out", sleep=0.05)
    wait_for(process, "step 5")

    process.send_signal(number)

    _, step, *reason, _ = last_line(process).split()
    assert " ".join(reason) == f"received {number.name}"
    state = json.loads((tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").read_text())
    assert state["global_step"] == int(step) < 32
