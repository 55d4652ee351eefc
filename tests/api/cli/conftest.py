"""A configuration of a run on PyTorch, and the module that it names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PARTS = """\
import os
import signal
import time
import torch
from torch.utils.data import TensorDataset


class Net(torch.nn.Module):
    def __init__(self, width: int = 4, delay_s: float = 0.0):
        super().__init__()
        self.layer = torch.nn.Linear(3, width)
        self.delay_s = delay_s

    def forward(self, x):
        time.sleep(self.delay_s)
        return self.layer(x)


class StopsOnce(Net):
    calls = 0

    def forward(self, x):
        self.calls += torch.is_grad_enabled()
        if self.calls == 2 and not os.path.exists("stopped"):
            open("stopped", "w").close()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x)


class Fails(Net):
    def forward(self, x):
        raise RuntimeError("no way forward")


def data(rows: int = 32, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(rows, 3, generator=generator), torch.arange(rows) % 4)


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}
"""

RUN = """\
model: {class_path: cli_parts.Net}
train_data: {class_path: cli_parts.data}
eval_data: {class_path: cli_parts.data, init_args: {rows: 10, seed: 1}}
test_data: {class_path: cli_parts.data, init_args: {rows: 9, seed: 2}}
loss_fn: torch.nn.functional.cross_entropy
compute_metrics: cli_parts.accuracy
args:
  output_dir: out
  max_steps: 6
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  logging_steps: 2
  eval_strategy: steps
  eval_steps: 3
  save_steps: 3
  no_cuda: true
callbacks:
  printer:
  csv:
"""


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Return a function that writes a module into the folder of the test, which is this one, to be imported anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(name, text):
        sys.modules.pop(name, None)
        Path(f"{name}.py").write_text(text)

    return write


@pytest.fixture
def run_yaml(write_module):
    write_module("cli_parts", PARTS)
    Path("run.yaml").write_text(RUN)
    return "run.yaml"
