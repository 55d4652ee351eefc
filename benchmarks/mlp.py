"""What the benchmarks of a step in PyTorch train: a 64-64-10 MLP, its data, its optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from harness import Cost
from torch import nn
from torch.utils.data import TensorDataset

BATCH = 32


@dataclass(frozen=True)
class Setting:
    """How to train."""

    steps: int = 400
    accumulation: int = 1
    is_watched: bool = False

    def data(self) -> TensorDataset:
        """Return the examples of one epoch."""
        generator, examples = torch.Generator().manual_seed(0), self.steps * self.accumulation * BATCH
        features = torch.randn(examples, 64, generator=generator)
        return TensorDataset(features, torch.randint(0, 10, (examples,), generator=generator))

    def a_step(self, cost: Cost) -> Cost:
        """Return microseconds a step."""
        clock_s, cpu_s = cost
        return clock_s / self.steps * 1e6, cpu_s / self.steps * 1e6


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def optimizers(model: nn.Module, setting: Setting) -> tuple[Any, Any]:
    """Return fused AdamW and a linear schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / setting.steps)
