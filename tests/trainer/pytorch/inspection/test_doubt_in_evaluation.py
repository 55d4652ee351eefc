"""A loss over several batches that cannot be exact is told once, with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trackside import Trainer

FEW = torch.tensor([[0, 1, -100, -100], [2, -100, -100, -100], [1, 1, 1, -100], [0, -100, -100, -100]])
ALL = torch.tensor([[0, 1, 2, 0]] * 4)


class TwoHeads(nn.Module):
    """A sum of two cross entropies."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, x, one, two):
        losses = [
            nn.functional.cross_entropy(head(x).transpose(1, 2), labels)
            for head, labels in ((self.one, one), (self.two, two))
        ]
        return {"loss": sum(losses)}


def data_of(one, two):
    torch.manual_seed(0)
    return [{"x": torch.randn(4, 2), "one": one[row], "two": two[row]} for row in range(4)]


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(
    ("two", "told"), [(FEW, "it is a sum of means over different numbers of items (3, 8)"), (ALL, "")]
)
def test_a_sum_of_means_over_unequal_numbers(make_trainer, caplog, trains, two, told):
    options = {"per_device_eval_batch_size": 2, "per_device_train_batch_size": 2, "max_steps": 1, "seed": 0}
    data = data_of(ALL, two)
    trainer = make_trainer(
        model=TwoHeads(), loss_fn=None, train_dataset=data, eval_dataset=data, label_names=["one", "two"], **options
    )
    if trains:
        trainer.train()

    trainer.evaluate()
    trainer.evaluate()

    assert caplog.text.count("eval_loss may not be the loss over the whole dataset") == bool(told)
    assert "since a batch has one weight, and it is a sum of means" in caplog.text or not told
    assert trains or told in caplog.text


def test_losses_of_several_optimizers_with_weights_of_their_own(make_trainer, caplog):
    class Two(Trainer):
        def compute_loss(self, model, inputs):
            x, labels = inputs
            losses = nn.functional.cross_entropy(model(x), labels, reduction="none")
            part = losses[labels > 0]
            return {"a": (losses.sum(), len(losses)), "b": (part.sum(), len(part))}

    trainer = make_trainer(Two, eval_dataset=None, per_device_eval_batch_size=10)

    trainer.evaluate(trainer.train_dataset)

    assert caplog.text.count("eval_loss may not be the loss over the whole dataset") == 1
