"""Small real parts for the PyTorch trainer's tests: models, data, a metric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from trackside import Trainer

torch.set_num_threads(1)


class DictDataset(Dataset[dict[str, Tensor]]):
    """Columns of tensors as a map-style dataset of dicts."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def mlp(*, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3)).to(dtype)


def classified(examples: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> TensorDataset:
    """Examples of three classes that a small model can learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (examples,), generator=generator)
    features = torch.randn(examples, 6, generator=generator).to(dtype)
    features[torch.arange(examples), labels] += 2.0
    return TensorDataset(features, labels)


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class TokenModel(nn.Module):
    """Classifies every token; returns the mean loss over the labels that are not -100."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 8).double()
        self.head = nn.Linear(8, 5).double()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids))
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class SumTrainer(Trainer):
    """Returns ``(loss_sum, weight)`` with weights of its own."""

    def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        outputs = model(**inputs)["logits"]
        losses = nn.functional.cross_entropy(outputs.transpose(1, 2), inputs["labels"], reduction="none")
        weights = (inputs["labels"] != -100) * (1.0 + inputs["input_ids"] % 3)
        return (losses * weights).sum(), weights.sum()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state of a model."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two states are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
