"""A run that was interrupted and resumed is, to the bit, the run that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_parts import accuracy, classified, mlp, weights_of
from torch import Tensor
from torch.utils.data import Dataset

from trackside import Trainer, TrainerCallback, events
from trackside.callbacks.errors import ArgumentError, CheckpointError
from trackside.trainer.checkpoint import newest_valid

Make = Callable[..., Trainer]


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Examples with random augmentation from all three generators."""

    def __init__(self, examples: int) -> None:
        self.data = classified(examples)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        features, label = self.data[index]
        noise = torch.rand(6) + random.random() + float(np.random.rand())
        return features + 0.1 * noise, label


class Counting(TrainerCallback):
    """A callback with a state of its own."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def comparable(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return log records without what depends on the clock."""
    timed = ("runtime", "per_second")
    return [{name: value for name, value in record.items() if not name.endswith(timed)} for record in history]


CASES = {
    "plain": {},
    "accumulation, ragged end": {"gradient_accumulation_steps": 3},
    "fp16 with loss scale": {"fp16": True},
    "cosine schedule with warmup": {"lr_scheduler_type": "cosine", "warmup_steps": 4},
    "augmentation in the main process": {"train_dataset": Noisy(43)},
    "augmentation in two workers": {"train_dataset": Noisy(43), "dataloader_num_workers": 2},
    "saved in the foreground": {"save_async": False},
    "commits in the middle of a record": {"logging_steps": 5},
}


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_a_resumed_run_is_bitwise_the_one_that_was_not_interrupted(
    make_trainer: Make, tmp_path: Path, case: str
) -> None:
    def build(folder: str, *extra: Any) -> tuple[Trainer, Counting]:
        counting = Counting()
        options = {
            "train_dataset": classified(43),
            "output_dir": str(tmp_path / folder),
            "model": mlp(dropout=0.3),
            "eval_dataset": classified(9),
            "compute_metrics": accuracy,
            "callbacks": [counting, *extra],
            "num_train_epochs": 3,
            "logging_steps": 2,
            "save_strategy": "steps",
            "save_steps": 3,
            "eval_strategy": "epoch",
            "learning_rate": 1e-2,
            **CASES[case],
        }
        return make_trainer(**options), counting

    whole, whole_counting = build("whole")
    sent = _sent_by(whole)
    whole.train()

    stop = whole.state.max_steps * 2 // 3 + 1
    interrupted, _ = build("cut", StopAt(stop))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    interrupted.saver.committer.wait()
    resumed, resumed_counting = build("cut")
    sent_again = _sent_by(resumed)
    resumed.train(resume_from_checkpoint=True)

    assert torch.equal(weights_of(resumed.model), weights_of(whole.model))
    assert comparable(resumed.state.log_history) == comparable(whole.state.log_history)
    assert resumed_counting.steps == whole_counting.steps == list(range(1, whole.state.max_steps + 1))
    for one, other in zip(_tensors(whole.optimizer), _tensors(resumed.optimizer), strict=True):
        assert torch.equal(one, other)
    after = [event for event in sent_again if event[0] not in ("on_load", "on_train_begin", "on_epoch_begin")]
    assert [event for event in sent if event[0] != "on_epoch_begin"][-len(after) :] == after


def _tensors(optimizer: Any) -> list[Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def _sent_by(trainer: Trainer) -> list[tuple[str, int]]:
    sent: list[tuple[str, int]] = []
    for name in events.EVENTS:
        if name not in ("on_save", "on_init_end"):  # listening to on_save would make commits synchronous
            trainer.on(name)(_noting(sent, name))
    return sent


def _noting(sent: list[tuple[str, int]], name: str) -> Callable[..., None]:
    return lambda trainer, state, **rest: sent.append((name, state.global_step))


def test_on_load_tells_the_checkpoint_and_which_arguments_changed(make_trainer: Make) -> None:
    make_trainer(save_strategy="steps", save_steps=2, max_steps=4).train()
    trainer = make_trainer(save_strategy="steps", save_steps=2, max_steps=6, learning_rate=1e-3)
    heard: list[tuple[str, dict[str, Any]]] = []
    trainer.on("on_load")(lambda t, checkpoint, differences, **rest: heard.append((checkpoint, differences)))

    trainer.train(resume_from_checkpoint=True)

    ((checkpoint, differences),) = heard
    assert checkpoint.endswith("checkpoint-4")
    assert differences["learning_rate"] == (5e-5, 1e-3)
    assert trainer.state.global_step == 6


def test_a_fresh_start_into_the_checkpoints_of_another_run_is_an_error(make_trainer: Make) -> None:
    make_trainer(save_strategy="steps", save_steps=2, max_steps=2).train()

    with pytest.raises(ArgumentError, match=r"resume_from_checkpoint=True to go on.*overwrite_output_dir=True"):
        make_trainer(max_steps=2).train()

    make_trainer(max_steps=2, overwrite_output_dir=True).train()


def test_resume_true_in_an_empty_folder_is_a_fresh_start(make_trainer: Make) -> None:
    assert make_trainer(resume_from_checkpoint=True, max_steps=2).train().global_step == 2


def test_a_broken_newest_checkpoint_is_skipped_and_named(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    first = make_trainer(save_strategy="steps", save_steps=2, max_steps=4)
    first.train()
    weights = Path(first.args.output_dir) / "checkpoint-4" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    trainer = make_trainer(max_steps=4)

    trainer.train(resume_from_checkpoint=True)

    assert "checkpoint-4" in caplog.text
    assert trainer.state.global_step == 4


def test_a_checkpoint_that_is_not_there_is_named(make_trainer: Make) -> None:
    with pytest.raises(CheckpointError, match="nowhere is no checkpoint"):
        make_trainer().train(resume_from_checkpoint="nowhere")


def test_weights_that_do_not_fit_name_what_is_missing(make_trainer: Make) -> None:
    make_trainer(save_strategy="steps", save_steps=2, max_steps=2).train()

    with pytest.raises(CheckpointError, match=r"do not fit the model: missing .*weight"):
        make_trainer(model=torch.nn.Linear(6, 3), max_steps=4).train(resume_from_checkpoint=True)


def test_a_failed_commit_in_the_background_is_raised_at_a_later_step(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(save_strategy="steps", save_steps=1, max_steps=5)
    monkeypatch.setattr("trackside.trainer.pytorch.snapshot.write_torch", _no_space)

    with pytest.raises(CheckpointError, match="No space left"):
        trainer.train()


def _no_space(folder: Path, files: dict[str, Any]) -> None:
    raise OSError(28, "No space left on device")


# -- real processes ---------------------------------------------------------------------------------------------------

SCRIPT = """
    import sys, time, torch
    from torch import nn
    from pytorch_parts import classified, mlp, weights_of
    from trackside import Trainer, TrainerCallback, TrainingArguments

    class Slow(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            time.sleep({sleep})
            print("step", state.global_step, flush=True)

    args = TrainingArguments(output_dir=sys.argv[1], num_train_epochs=4, save_strategy="steps", save_steps=2,
        logging_steps=3, disable_tqdm=True, resume_from_checkpoint=True, learning_rate=1e-2)
    trainer = Trainer(mlp(dropout=0.3), args, train_dataset=classified(64), loss_fn=nn.CrossEntropyLoss(),
        callbacks=[Slow()])
    trainer.pop_callback("printer")
    trainer.train()
    print("done", trainer.state.global_step, trainer.state.stop_reason, weights_of(trainer.model).double().sum().item())
"""


def start(folder: Path, sleep: float = 0.0) -> subprocess.Popen[str]:
    tests = str(Path(__file__).parent.parent)
    path = os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT.format(sleep=sleep)), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def last_line(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.strip().splitlines()[-1]


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        if text.strip() == line:
            return
    raise AssertionError(f"the process ended before it printed {line!r}")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    expected = last_line(start(tmp_path / "whole"))
    rng = random.Random(0)

    for _ in range(4):
        process = start(tmp_path / "killed", sleep=0.01)
        wait_for(
            process, f"step {rng.randint(24, 30)}" if not list(tmp_path.glob("killed/checkpoint-*")) else "step 31"
        )
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert newest_valid(tmp_path / "killed")[0] is not None

    assert last_line(start(tmp_path / "killed")) == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_next_step_and_stops(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path / "out", sleep=0.05)
    wait_for(process, "step 5")

    process.send_signal(number)

    _, step, *reason, _ = last_line(process).split()
    assert " ".join(reason) == f"received {number.name}"
    state = json.loads((tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").read_text())
    assert state["global_step"] == int(step) < 32
