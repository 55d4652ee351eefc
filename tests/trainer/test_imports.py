"""A run on one framework never loads the other, whatever built-in callbacks are attached."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from support.arrays import *
from {parts} import *
from trackside import {trainer}, {args}

callbacks = {{
    "tensorboard": {{}},
    "early_stopping": {{"early_stopping_patience": 3}},
    "progress": {{}},
    "csv": {{}},
    "jsonl": {{}},
    "journal": {{}},
    "learning_rate_monitor": {{}},
    "throughput_monitor": {{}},
    "loss_guard": {{}},
    "terminate_on_nan": {{}},
}}
options = dict(max_steps=1, logging_steps=1, save_steps=1, eval_strategy="steps", eval_steps=1)
args = {args}("out", callbacks=callbacks, metric_for_best_model="loss", **options)
trainer = {trainer}(mlp(), args, train_dataset=classified(8), eval_dataset=classified(8), loss_fn={loss})
assert trainer.train().global_step == 1
assert set(callbacks) <= set(trainer.callback_report)
print("loaded:", *sorted({{"torch", "tensorflow", "keras"}} & set(sys.modules)))
"""
PYTORCH = {
    "parts": "support.torch_models",
    "trainer": "Trainer",
    "args": "TrainingArguments",
    "loss": "nn.CrossEntropyLoss()",
}
TENSORFLOW = {"parts": "support.tf_models", "trainer": "TFTrainer", "args": "TFTrainingArguments", "loss": "LOSS"}


@pytest.mark.parametrize(
    ("names", "loaded"), [(PYTORCH, "torch"), (TENSORFLOW, "keras tensorflow")], ids=["pytorch", "tensorflow"]
)
def test_a_run_with_the_built_in_callbacks_loads_its_own_framework_only(tmp_path, names, loaded):
    if importlib.util.find_spec(loaded.split()[-1]) is None:
        pytest.skip(f"{loaded} is not installed")
    find_parts = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    (tmp_path / "run.py").write_text(find_parts + RUN.format(**names))

    result = subprocess.run([sys.executable, "run.py"], capture_output=True, text=True, cwd=tmp_path, timeout=240)

    assert result.returncode == 0, result.stderr[-2000:]
    assert f"loaded: {loaded}\n" in result.stdout
