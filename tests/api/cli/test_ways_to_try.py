"""Ways to try on the command line: --fast_dev_run and lr-find."""

from __future__ import annotations

import pytest

from trackside.cli.main import WRONG_CONFIG, main

RUN = """\
model: tried_parts.model
train_data: tried_parts.data
eval_data: tried_parts.data
loss_fn: torch.nn.CrossEntropyLoss
args: {output_dir: out, max_steps: 30, disable_tqdm: true, eval_strategy: epoch, report_to: [csv]}
"""
PARTS = """\
import torch

def model():
    return torch.nn.Linear(6, 3)

def data():
    torch.manual_seed(0)
    return torch.utils.data.TensorDataset(torch.randn(16, 6), torch.arange(16) % 3)
"""


@pytest.fixture(autouse=True)
def _files(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "tried_parts.py").write_text(PARTS)


def test_a_development_run_leaves_nothing_behind(tmp_path, capsys):
    assert main(["train", "--fast_dev_run", "run.yaml"]) == 0

    shown = capsys.readouterr().out
    assert "fast_dev_run: train, evaluate, save, resume, predict work" in shown
    assert "saves after each step, evaluates after each step" in shown
    assert "Metrics" in shown
    assert "Files" not in shown
    assert not (tmp_path / "out").exists()


def test_a_learning_rate_is_found_and_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")

    assert main(["lr-find", "run.yaml", "--min-rate", "1e-4", "--max-rate", "10", "--steps", "15"]) == 0

    said = capsys.readouterr().out
    assert "updates with rates from 0.0001 to " in said
    assert "out/learning_rates.png" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["learning_rates.png"]


def test_a_wrong_range_is_an_error_of_the_command(capsys):
    assert main(["lr-find", "run.yaml", "--steps", "3"]) == WRONG_CONFIG

    assert "command line: --steps 3 is not allowed: at least 10" in capsys.readouterr().err
