"""What the first loss of a run shows: items, labels that are shifted, divisions, and what counts as nothing."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_models import DictDataset, TokenModel, classified, mlp, weights_of
from torch import Tensor, nn
from torch.nn import functional

from trackside import Trainer, TrainerCallback, TrainingArguments


def trained(tmp_path: Any, cls: type[Trainer] = Trainer, *, model: Any, data: Any, **options: Any) -> Trainer:
    given = {name: options.pop(name) for name in ("loss_fn", "loss_items_fn", "callbacks") if name in options}
    values = {"max_steps": 1, "logging_steps": 1, "max_grad_norm": 0, "save_strategy": "no", "disable_tqdm": True}
    values |= {"lr_scheduler_type": "constant"}
    args = TrainingArguments(str(tmp_path), **{**values, **options})
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.5), None)
    trainer = cls(model, args, train_dataset=data, optimizers=optimizers, **given)
    trainer.pop_callback("printer")
    trainer.train()
    return trainer


class ShiftedModel(TokenModel):
    """Predicts the next token, under a name that does not say so; called twice through an opaque function if asked."""

    opaque = False

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids))
        if labels is None:
            return {"logits": logits}
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": Opaque.apply(loss) if self.opaque else loss, "logits": logits}


class Opaque(torch.autograd.Function):
    """Returns its input, like a loss of a fused kernel or a compiled model, whose operations are not seen."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def tokens(lengths: list[int], *, fill: int = -100) -> DictDataset:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 11, (len(lengths), 7), generator=generator)
    labels = torch.randint(0, 5, (len(lengths), 7), generator=generator)
    for row, length in enumerate(lengths):
        labels[row, length:] = fill
    return DictDataset(input_ids=ids, labels=labels)


@pytest.mark.parametrize("opaque", [False, True])
def test_shifted_labels_are_recognized_by_what_the_loss_depends_on(opaque: bool, tmp_path: Any, caplog: Any) -> None:
    data, found = tokens([2, 7, 3, 5]), []
    for size, accumulation in ((4, 1), (2, 2)):
        model = ShiftedModel()
        model.opaque = opaque
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        found.append(trained(tmp_path, model=model, data=data, **options))

    torch.testing.assert_close(weights_of(found[1].model), weights_of(found[0].model), rtol=0, atol=1e-10)
    assert "unknown over how many items" not in caplog.text


class OfExamples(TokenModel):
    """Returns the mean of the means of its examples, as a CTC loss does."""

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids)).transpose(1, 2)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return {"loss": (losses.sum(1) / (labels != -100).sum(1)).mean(), "logits": logits}


class IgnoresThree(TokenModel):
    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.embedding(input_ids)).transpose(1, 2)
        return {"loss": functional.cross_entropy(logits, labels, ignore_index=3)}


class LogitsOnly(TokenModel):
    def forward(self, input_ids: Tensor) -> Any:
        return super().forward(input_ids, torch.zeros_like(input_ids))["logits"].transpose(1, 2)


@pytest.mark.parametrize(
    ("model", "loss_fn"),
    [
        (ShiftedModel, None),
        (OfExamples, None),
        (IgnoresThree, None),
        (LogitsOnly, nn.CrossEntropyLoss(weight=torch.arange(1.0, 6).double())),
    ],
)
def test_evaluation_before_training_weighs_batches_as_the_loss_does(model: Any, loss_fn: Any, tmp_path: Any) -> None:
    data = tokens([2, 7, 1, 4], fill=3 if model is IgnoresThree else -100)
    losses = []
    for size in (1, 4):
        args = TrainingArguments(str(tmp_path), per_device_eval_batch_size=size, disable_tqdm=True)
        losses.append(Trainer(model(), args, eval_dataset=data, loss_fn=loss_fn).evaluate()["eval_loss"])

    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


@pytest.mark.parametrize("option", ["label_smoothing_factor", "loss_fn"])
def test_what_an_evaluation_after_training_counts_is_what_the_loss_counted(option: str, tmp_path: Any) -> None:
    data = tokens([2, 7, 1, 4], fill=4)
    loss = nn.CrossEntropyLoss(weight=torch.arange(1.0, 6).double(), ignore_index=4)

    own = {"label_smoothing_factor": 0.1} if option == "label_smoothing_factor" else {"loss_fn": loss}
    model = ShiftedModel() if option == "label_smoothing_factor" else LogitsOnly()
    trainer = trained(tmp_path, model=model, data=data, **own)

    losses = []
    for size in (1, 2, 4):
        trainer.args.per_device_eval_batch_size = size
        losses.append(trainer.evaluate(data)["eval_loss"])
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-12)


@pytest.mark.parametrize("kind", ["model", "masked by hand", "loss_sum and weight", "accumulated"])
def test_a_batch_in_which_nothing_counts_is_nothing(kind: str, tmp_path: Any) -> None:
    class Masked(Trainer):
        def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
            logits, labels = model(**inputs)["logits"], inputs["labels"]
            losses, mask = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none"), labels != -100
            total = (losses * mask).sum()
            return (total, mask.sum()) if kind.startswith("loss_sum") else total / mask.sum()

    class InOrder(Masked if kind in ("masked by hand", "loss_sum and weight") else Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=1)

    options = {"max_steps": 6, "logging_steps": 3}
    if kind == "accumulated":  # the second update has nothing
        options = {"max_steps": 3, "logging_steps": 1, "gradient_accumulation_steps": 2}
    lengths = [3, 2, 0, 0, 4, 1] if kind == "accumulated" else [3, 0, 2, 4, 0, 1]
    trainer = trained(tmp_path, InOrder, model=TokenModel(), data=tokens(lengths), **options)

    by_hand, losses = TokenModel(), []
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    step = 2 if kind == "accumulated" else 1
    for start in range(0, 6, step):
        if not any(lengths[start : start + step]):
            continue
        batch = torch.utils.data.default_collate([tokens(lengths)[index] for index in range(start, start + step)])
        optimizer.zero_grad()
        loss = by_hand(**batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(weights_of(trainer.model), weights_of(by_hand), rtol=0, atol=1e-10)
    records = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    expected = losses if kind == "accumulated" else [sum(losses[:2]) / 2, sum(losses[2:]) / 2]
    assert records == pytest.approx(expected, abs=1e-10)
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-10)


def test_the_loss_of_a_run_in_which_nothing_counts_is_not_a_number(tmp_path: Any) -> None:
    trainer = trained(tmp_path, model=TokenModel(), data=tokens([0, 0, 0]), max_steps=3)

    assert np.isnan(trainer.state.log_history[-1]["train_loss"])


class Divides(Trainer):
    """As it is written for the transformers Trainer."""

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        features, labels = inputs
        loss = functional.cross_entropy(model(features), labels)
        loss = loss / self.args.gradient_accumulation_steps
        loss.backward()
        return loss.detach()


class DividesInBackward(Divides):
    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = self.compute_loss(model, inputs) / self.args.gradient_accumulation_steps
        self.backward(loss)
        return loss.detach()


class DividesInLoss(Trainer):
    def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        return functional.cross_entropy(model(inputs[0]), inputs[1]) * (1 / self.args.gradient_accumulation_steps)


class Halves(Trainer):
    """Halves its loss on purpose."""

    def compute_loss(self, model: nn.Module, inputs: Any) -> Any:
        return 0.5 * functional.cross_entropy(model(inputs[0]), inputs[1])


@pytest.mark.parametrize("cls", [Divides, DividesInBackward, DividesInLoss])
@pytest.mark.parametrize("examples", [12, 9])  # whole windows, and one that is short
def test_a_loss_that_is_divided_by_the_accumulation_is_divided_once(
    cls: type[Trainer], examples: int, tmp_path: Any, caplog: Any
) -> None:
    data = classified(examples, dtype=torch.float64)
    options = {"per_device_train_batch_size": 3, "max_steps": -1, "num_train_epochs": 1}

    divided = trained(
        tmp_path,
        cls,
        model=mlp(dtype=torch.float64),
        data=data,
        gradient_accumulation_steps=2,
        loss_fn=functional.cross_entropy,
        **options,
    )
    plain = trained(
        tmp_path,
        model=mlp(dtype=torch.float64),
        data=data,
        gradient_accumulation_steps=2,
        loss_fn=functional.cross_entropy,
        **options,
    )

    torch.testing.assert_close(weights_of(divided.model), weights_of(plain.model), rtol=0, atol=1e-10)
    assert divided.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"], abs=1e-10)
    assert caplog.text.count("is divided by gradient_accumulation_steps=2") == 1


def test_a_constant_factor_that_happens_to_be_the_same_is_left_alone(tmp_path: Any, caplog: Any) -> None:
    data = classified(8, dtype=torch.float64)

    cut, whole = (
        trained(tmp_path, Halves, model=mlp(dtype=torch.float64), data=data, per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulation)
        for size, accumulation in ((4, 2), (8, 1))
    )  # fmt: skip

    torch.testing.assert_close(weights_of(cut.model), weights_of(whole.model), rtol=0, atol=1e-10)
    assert "is divided by" not in caplog.text


def test_a_training_step_with_its_own_backward_is_told_that_its_micro_batches_weigh_the_same(
    tmp_path: Any, caplog: Any
) -> None:
    trained(tmp_path, Divides, model=mlp(), data=classified(8).__class__(*classified(8).tensors),
            gradient_accumulation_steps=2, per_device_train_batch_size=4)  # fmt: skip

    assert caplog.text.count("training_step runs the backward pass by itself") == 1


def test_loss_items_fn_says_over_how_many_items_a_mean_is(tmp_path: Any, caplog: Any) -> None:
    class Rooted(TokenModel):
        """Its loss is a mean that cannot be read."""

        def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": Opaque.apply(super().forward(input_ids, labels)["loss"])}

    data, found = tokens([2, 7, 1, 4]), []
    for size, accumulation in ((4, 1), (1, 4)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
        count = {"loss_items_fn": lambda batch: (batch["labels"] != -100).sum()}
        found.append(trained(tmp_path, model=Rooted(), data=data, **options, **count))

    torch.testing.assert_close(weights_of(found[1].model), weights_of(found[0].model), rtol=0, atol=1e-10)
    assert caplog.text == ""


def test_fp16_holds_back_no_more_updates_than_by_hand(tmp_path: Any) -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.head = nn.Embedding(50, 32), nn.Linear(32, 50)

        def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
            logits = self.head(self.embedding(input_ids)).float()
            return {"loss": functional.cross_entropy(logits.view(-1, 50), labels.view(-1))}

    skips: list[bool] = []

    class Count(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, skipped: bool, **kwargs: Any) -> None:
            skips.append(skipped)

    ids = torch.randint(0, 50, (8, 2048), generator=torch.Generator().manual_seed(0))
    trained(tmp_path, model=Long(), data=DictDataset(input_ids=ids, labels=ids), fp16=True, callbacks=[Count],
            gradient_accumulation_steps=2, per_device_train_batch_size=1, max_steps=4)  # fmt: skip

    assert skips == [False] * 4


def test_a_loss_that_is_not_finite_is_told_once_with_its_update_and_batch(tmp_path: Any, caplog: Any) -> None:
    data = classified(12)
    data.tensors[0][7] = torch.inf

    class InOrder(Trainer):
        def get_train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(self.train_dataset, batch_size=2)

    with caplog.at_level(logging.WARNING):
        trained(tmp_path, InOrder, model=mlp(), data=data, loss_fn=functional.cross_entropy, max_steps=6)

    told = [record.getMessage() for record in caplog.records if "the loss of update" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("the loss of update 4 is nan; not finite in its batch: 0;")
