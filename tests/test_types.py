"""What editors and type checkers see: the public surface is typed, and the mistakes of a beginner are reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("basedpyright")
pytest.importorskip("torch")

MISTAKES = """\
import torch
from torch.utils.data import TensorDataset
from trackside import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, events

data = TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,)))
model, loss = torch.nn.Linear(4, 2), torch.nn.functional.cross_entropy
good = TrainingArguments("out", learning_rate=1e-3, eval_strategy="epoch", report_to="none", optim="sgd")
TrainingArguments("out", learning_rat=1e-3)  # wrong: misspelt
TrainingArguments("out", eval_strategy="epochs")  # wrong: not a choice
TrainingArguments("out", num_train_epochs="three")  # wrong: not a number
TrainingArguments("out", optim="adam")  # wrong: not a choice
TrainingArguments("out", report_to=["wanb"])  # wrong: not a choice
callbacks = [EarlyStoppingCallback(3)]
trainer = Trainer(model, good, train_dataset=data, eval_dataset=data, loss_fn=loss, callbacks=callbacks)
Trainer(model, good, train_datset=data)  # wrong: misspelt
Trainer(good, model)  # wrong: swapped
Trainer(model, good, callbacks=EarlyStoppingCallback())  # wrong: not a list
Trainer(model, good, train_dataset=3)  # wrong: not a dataset
steps: int = trainer.train().global_step
metrics: dict[str, float] = trainer.train().metrics
evaluated: dict[str, float] = trainer.evaluate()
best: float | None = trainer.state.best_metric
trainer.add_callback(EarlyStoppingCallback(), every=2)
trainer.trian()  # wrong: misspelt


class Mine(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step % 10 == 0
        control.shuld_training_stop = True  # wrong: misspelt

    def on_log(self, args, state, control, logs=None, **kwargs):
        print(logs)


@trainer.on("on_step_ned")  # wrong: misspelt
def first(trainer, **kwargs): ...


@trainer.on("on_step_end", every=5)
def second(trainer, state, **kwargs): ...


events.on_log.connect(second)
events.on_lgo.connect(second)  # wrong: misspelt
"""


def pyright(folder: Path, *options: str) -> Any:
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson", *options]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    return json.loads(ended.stdout)


def test_the_mistakes_of_a_beginner_are_reported_and_nothing_else(tmp_path):
    (tmp_path / "script.py").write_text(MISTAKES)
    (tmp_path / "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')

    found = pyright(tmp_path, "script.py")["generalDiagnostics"]

    reported = {item["range"]["start"]["line"] for item in found if item["severity"] == "error"}
    wrong = {number for number, line in enumerate(MISTAKES.splitlines()) if "# wrong" in line}
    texts = [(item["range"]["start"]["line"], item["message"]) for item in found if item["severity"] == "error"]
    assert reported == wrong, [text for text in texts if text[0] not in wrong]


def test_the_public_surface_is_typed(tmp_path):
    score = pyright(tmp_path, "--verifytypes", "trackside", "--ignoreexternal")["typeCompleteness"]["completenessScore"]

    assert score >= 0.95
