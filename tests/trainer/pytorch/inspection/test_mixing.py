"""Losses and layers that mix the examples of a batch are told from those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.torch_models import DictDataset
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from trackside import Trainer, TrainingArguments
from trackside.trainer.pytorch.inspection.mixing import comparison_in

EXAMPLES, WIDTH = 4, 6
cross_entropy = functional.cross_entropy


def embedded(examples: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    """Returns two tensors of the same examples, as of two encoders."""
    torch.manual_seed(0)
    first = nn.Linear(3, WIDTH)(torch.randn(examples, 3))
    return first, nn.Linear(WIDTH, WIDTH)(first)


def simclr(one: Tensor, two: Tensor) -> Tensor:
    both = functional.normalize(torch.cat([one, two]), dim=-1)
    return cross_entropy(both @ both.t() - 1e9 * torch.eye(2 * EXAMPLES), torch.arange(2 * EXAMPLES).roll(EXAMPLES))


def barlow(one: Tensor, two: Tensor) -> Tensor:
    one, two = ((part - part.mean(0)) / part.std(0) for part in (one, two))
    return ((one.T @ two) / EXAMPLES - torch.eye(WIDTH)).square().sum()


def entropy(one: Tensor, two: Tensor) -> Tensor:
    mean = one.softmax(-1).mean(0)
    return (mean * mean.log()).sum()


def every_pair(one: Tensor, two: Tensor) -> Tensor:
    return functional.cosine_similarity(one.unsqueeze(1), two.unsqueeze(0), dim=-1)


MIXED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "clip": lambda one, two: cross_entropy(one @ two.t(), torch.arange(EXAMPLES)),
    "siglip": lambda one, two: -functional.logsigmoid((one @ two.t()) * (2 * torch.eye(EXAMPLES) - 1)).sum(-1).mean(),
    "simclr": simclr,
    "pairs as classes": lambda one, two: cross_entropy(every_pair(one, two) * 20, torch.arange(EXAMPLES)),
    "pairs": lambda one, two: every_pair(one, two).logsumexp(1).mean(),
    "einsum": lambda one, two: torch.einsum("nd,md->nm", one, two).softmax(1).diag().log().mean(),
    "distances": lambda one, two: torch.cdist(one, two).sub(1).relu().mean(),
    "ranking": lambda one, two: functional.relu(1 - (one[:, :1] - one[:, :1].T)).mean(),
    "barlow twins": barlow,
    "entropy of the mean": entropy,
    "deviation": lambda one, two: functional.relu(1 - one.std(0)).mean(),
    "from the mean": lambda one, two: (one - one.mean(0)).square().mean(),
    "softmax over examples": lambda one, two: one.softmax(0).square().mean(),
}


@pytest.mark.parametrize("kind", MIXED)
def test_a_loss_that_compares_examples_is_found(kind: str) -> None:
    assert comparison_in(MIXED[kind](*embedded()), EXAMPLES, None)


@pytest.mark.parametrize("kind", ["clip", "distances", "barlow twins", "from the mean"])
def test_it_is_found_in_a_batch_of_one_example(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "EXAMPLES", 1)

    assert comparison_in(MIXED[kind](*embedded(1)), 1, None)


def layered(layer: nn.Module, *shape: int) -> Tensor:
    found = layer(torch.randn(*shape))
    return found[0] if isinstance(found, tuple) else found


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 8, **options)


def low_rank(x: Tensor) -> Tensor:
    return x @ (nn.Parameter(torch.ones(EXAMPLES, 2)) @ nn.Parameter(torch.ones(2, WIDTH))).t()


def token_logits(x: Tensor) -> Tensor:
    embedding, position = nn.Embedding(9, WIDTH), nn.Embedding(EXAMPLES, WIDTH)(torch.arange(EXAMPLES))
    return (embedding(torch.ones(EXAMPLES, EXAMPLES, dtype=torch.long)) + position[None]).mean(1) @ embedding.weight.t()


# the sizes of time, layers, classes and weights are those of the examples, wherever they could be mistaken for them
SEPARATE: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "time first": lambda x: layered(encoder(), 2 * EXAMPLES, EXAMPLES, WIDTH).mean(0),
    "as many steps as examples": lambda x: layered(encoder(batch_first=True), EXAMPLES, EXAMPLES, WIDTH).mean(1),
    "layers": lambda x: torch.stack([layered(encoder(batch_first=True), EXAMPLES, 3, WIDTH)] * 2).mean(0).mean(1),
    "lstm": lambda x: layered(nn.LSTM(WIDTH, WIDTH), EXAMPLES, EXAMPLES, WIDTH).mean(0),
    "gru": lambda x: layered(nn.GRU(WIDTH, WIDTH, batch_first=True), EXAMPLES, 3, WIDTH)[:, -1],
    "weight norm": lambda x: parametrizations.weight_norm(nn.Linear(WIDTH, EXAMPLES))(x),
    "low rank": low_rank,
    "prototypes": lambda x: -torch.cdist(x, nn.Parameter(torch.ones(EXAMPLES, WIDTH))),
    "tokens": token_logits,
    "convolution": lambda x: layered(nn.Conv2d(3, WIDTH, 3), EXAMPLES, 3, 5, 5).mean((2, 3)),
}


@pytest.mark.parametrize("examples", [1, EXAMPLES])
@pytest.mark.parametrize("kind", SEPARATE)
def test_layers_that_keep_examples_apart_are_not_taken_for_a_comparison(
    kind: str, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "EXAMPLES", examples)
    labels, logits = torch.tensor([0, 3, 1, 2])[:examples], SEPARATE[kind](embedded(examples)[0])

    assert comparison_in(cross_entropy(logits, labels), examples, labels) == ""


@pytest.mark.parametrize(
    "loss",
    [
        lambda one, two: (one - 1).square().mean(0).sum(),
        lambda one, two: cross_entropy(one, torch.tensor([0, 3, 1, 2]), reduction="none").sum(0) / EXAMPLES,
        lambda one, two: (1 - functional.cosine_similarity(one, two)).mean(),
        lambda one, two: functional.triplet_margin_loss(one, two, one + 1),
        lambda one, two: (-0.5 * (1 + two - one.square() - two.exp()).sum(1)).mean(0),
        lambda one, two: one.mean() + nn.Parameter(torch.ones(EXAMPLES, 2)).sum(0).square().sum(),
    ],
)
def test_losses_of_examples_are_not_taken_for_a_comparison(loss: Any) -> None:
    assert comparison_in(loss(*embedded()), EXAMPLES, None) == ""


def test_labels_that_count_up_are_not_taken_for_the_examples() -> None:
    labels = torch.arange(EXAMPLES)

    assert comparison_in(cross_entropy(nn.Linear(WIDTH, EXAMPLES)(embedded()[0]), labels), EXAMPLES, labels) == ""


# -- what a run tells -------------------------------------------------------------------------------------------------


class Pairs(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, WIDTH), norm

    def forward(self, x: Tensor) -> Any:
        found = self.norm(self.layer(x))
        return {"loss": cross_entropy(found @ found.t(), torch.arange(len(x)))}


class Apart(Pairs):
    def forward(self, x: Tensor) -> Any:
        return {"loss": self.norm(self.layer(x)).square().mean()}


def trained(model: nn.Module, tmp_path: Any, accumulation: int) -> None:
    args = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=EXAMPLES,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        save_strategy="no",
        disable_tqdm=True,
    )
    Trainer(model, args, train_dataset=DictDataset(x=torch.randn(16, 3))).train()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: Pairs(nn.LayerNorm(WIDTH)), "the loss mixes examples: its classes are the examples of the batch"),
        (lambda: Apart(nn.BatchNorm1d(WIDTH)), "BatchNorm1d (norm) computes statistics over the examples"),
    ],
)
def test_a_run_that_accumulates_says_once_that_examples_are_mixed(
    model: Any, message: str, tmp_path: Any, caplog: Any
) -> None:
    trained(model(), tmp_path, accumulation=2)

    (told,) = [record.message for record in caplog.records if "one large batch" in record.message]
    assert message in told


@pytest.mark.parametrize("norm", [nn.LayerNorm(WIDTH), nn.BatchNorm1d(WIDTH).eval()])
def test_nothing_is_said_where_nothing_is_mixed(norm: nn.Module, tmp_path: Any, caplog: Any) -> None:
    model = Apart(norm)
    norm.train = lambda mode=True: norm  # type: ignore[method-assign,assignment]

    trained(model, tmp_path, accumulation=2)
    trained(Pairs(nn.BatchNorm1d(WIDTH)), tmp_path, accumulation=1)

    assert "one large batch" not in caplog.text


def test_explain_batch_says_that_examples_are_mixed(tmp_path: Any) -> None:
    trainer = Trainer(
        Pairs(nn.LayerNorm(WIDTH)), TrainingArguments(str(tmp_path)), train_dataset=DictDataset(x=torch.randn(16, 3))
    )

    assert trainer.explain_batch().mixing == "its classes are the examples of the batch"
