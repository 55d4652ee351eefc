"""A process that is killed loses nothing that was committed; one that gets a signal saves, and stops."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from support.fork_process import Fork

from trackside.testing.tiny_trainer import FRAMEWORKS, installed_frameworks
from trackside.trainer.checkpointing.discovery import newest_valid

SCRIPT = """
    import os, signal, sys, threading, time
    from support.arrays import *
    from {parts} import *
    from trackside import {trainer}, {args}, TrainerCallback

    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep({sleep})
            print("step", state.global_step, flush=True)
            if state.global_step == {kill_at}:
                threading.Timer({kill_after_s}, os.kill, (os.getpid(), signal.SIGKILL)).start()

    args = {args}(sys.argv[1], num_train_epochs={epochs}, save_strategy="steps", save_steps=2, logging_steps=3,
        disable_tqdm=True, resume_from_checkpoint=True, learning_rate=1e-2, on_stop_signal="return")
    trainer = {trainer}(mlp(dropout=0.3), args, train_dataset=classified(64), loss_fn={loss}, callbacks=[Slow()])
    trainer.pop_callback("printer")
    trainer.train()
    print("done", trainer.state.global_step, trainer.state.stop_reason, float(weights_of(trainer.model).sum()))
"""
NAMES = {
    "pytorch": {
        "parts": "support.torch_models",
        "trainer": "Trainer",
        "args": "TrainingArguments",
        "loss": "nn.CrossEntropyLoss()",
    },
    "tensorflow": {
        "parts": "support.tf_models",
        "trainer": "TFTrainer",
        "args": "TFTrainingArguments",
        "loss": "LOSS",
    },
}


@pytest.fixture(params=NAMES)
def start(request: pytest.FixtureRequest) -> Any:
    """Return a function that starts a run of eight steps an epoch in a process of its own."""
    if request.param not in installed_frameworks():
        pytest.skip(f"{request.param} is not installed")

    def start(folder: Path, **values: float) -> Fork:
        values = {"sleep": 0.0, "epochs": 4, "kill_at": 0, "kill_after_s": 0.0, **values}
        code = textwrap.dedent(SCRIPT.format(**values, **NAMES[request.param]))
        return Fork(FRAMEWORKS[request.param], ["-c", code, str(folder)], Path.cwd())

    return start


def last_line(process: Fork) -> str:
    assert process.wait(200) == 0, process.errors
    return process.output.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_one_that_was_not(start, tmp_path):
    expected = last_line(start(tmp_path / "whole"))

    for step, after_s in [(13, 0.004), (27, 0.013)]:
        killed = start(tmp_path / "killed", sleep=0.01, kill_at=step, kill_after_s=after_s)
        assert killed.wait(200) == -signal.SIGKILL, killed.errors
        assert newest_valid(tmp_path / "killed")[0] is not None

    assert last_line(start(tmp_path / "killed")) == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step_and_stops(start, tmp_path, number):
    process = start(tmp_path / "out", sleep=0.01, epochs=400)
    while "step 5\n" not in process.output:
        assert process.poll() is None, process.errors
        time.sleep(0.01)

    process.send_signal(number)

    _, step, *reason, _ = last_line(process).split()
    assert " ".join(reason) == f"received {number.name}"
    state = json.loads((tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").read_text())
    assert state["global_step"] == int(step) < 3200
