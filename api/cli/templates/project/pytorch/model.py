"""The model: replace it by your own."""

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Two linear layers; takes points of shape (batch, 2) and returns logits of shape (batch, 2)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.hidden: nn.Linear = nn.Linear(2, width)
        self.head: nn.Linear = nn.Linear(width, 2)

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.hidden(points)))
        return logits
