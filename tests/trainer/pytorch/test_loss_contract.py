"""The gradient of an update is that of the mean over everything in it, however it is cut."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.torch_models import DictDataset, SumTrainer, TokenModel, weights_of
from torch import Tensor, nn

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideTypeError

PLAIN = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


class ItemsTrainer(Trainer):
    """Divides a sum by num_items_in_batch, as transformers' users do."""

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**inputs)
        logits = outputs["logits"].flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, inputs["labels"].flatten(), reduction="sum") / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def tokens(lengths: list[int], width: int) -> DictDataset:
    """Rows whose first ``length`` labels count."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(0, 11, (len(lengths), width), generator=generator)
    labels = torch.randint(0, 5, (len(lengths), width), generator=generator)
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    return DictDataset(input_ids=input_ids, labels=labels)


def trained(cls: type[Trainer], dataset: DictDataset, tmp_path: Any, *, batch_size: int, accumulation: int) -> Trainer:
    model = TokenModel()
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        logging_steps=1,
        max_grad_norm=0.5,
        save_strategy="no",
        disable_tqdm=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = cls(model, args, train_dataset=dataset, optimizers=(optimizer, None))
    trainer.pop_callback("printer")
    trainer.train()
    return trainer


@pytest.mark.parametrize("cls", [Trainer, SumTrainer, ItemsTrainer])
@PLAIN
@given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=12).filter(any),
    batch_size=st.integers(1, 5),
)
def test_an_update_equals_that_of_one_big_batch(
    cls: type[Trainer], lengths: list[int], batch_size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset, folder = tokens(lengths, 7), tmp_path_factory.mktemp("run")
    pieces = math.ceil(len(lengths) / batch_size)

    whole = trained(cls, dataset, folder, batch_size=len(lengths), accumulation=1)
    cut = trained(cls, dataset, folder, batch_size=batch_size, accumulation=pieces)

    assert whole.state.global_step == cut.state.global_step == 1
    torch.testing.assert_close(weights_of(cut.model), weights_of(whole.model), rtol=0, atol=1e-10)
    assert cut.state.log_history[0]["loss"] == pytest.approx(whole.state.log_history[0]["loss"], abs=1e-10)
    assert cut.state.log_history[0]["grad_norm"] == pytest.approx(whole.state.log_history[0]["grad_norm"], abs=1e-9)


@PLAIN
@given(examples=st.integers(1, 30), batch_size=st.integers(1, 8), accumulation=st.integers(1, 5))
def test_every_update_of_an_epoch_has_the_gradient_of_its_mean(
    examples: int, batch_size: int, accumulation: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset, folder = tokens([1 + index % 7 for index in range(examples)], 7), tmp_path_factory.mktemp("run")

    cut = trained(Trainer, dataset, folder, batch_size=batch_size, accumulation=accumulation)
    whole = trained(Trainer, dataset, folder, batch_size=batch_size * accumulation, accumulation=1)

    assert cut.state.global_step == whole.state.global_step == math.ceil(examples / (batch_size * accumulation))
    torch.testing.assert_close(weights_of(cut.model), weights_of(whole.model), rtol=0, atol=1e-10)


def test_evaluation_weighs_batches_as_training_does(tmp_path: Any) -> None:
    lengths = [1, 7, 3, 0, 5, 2, 7]
    trainer = trained(Trainer, tokens(lengths, 7), tmp_path, batch_size=7, accumulation=1)

    losses = []
    for size in (1, 2, 3, 7):
        trainer.args.per_device_eval_batch_size = size
        losses.append(trainer.evaluate(tokens(lengths, 7))["eval_loss"])

    assert losses == pytest.approx([losses[-1]] * 4, abs=1e-12)


def test_causal_language_models_count_the_labels_that_they_shift(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=1, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    lengths = [2, 7, 3, 5, 1, 6]

    def run(batch_size: int, accumulation: int) -> Tensor:
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).double()
        args = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        Trainer(model, args, train_dataset=tokens(lengths, 7), optimizers=(optimizer, None)).train()
        return weights_of(model)

    # transformers computes this loss in float32
    torch.testing.assert_close(run(1, 6), run(6, 1), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda outputs: outputs, r"a tensor of shape \(1, 1\) with a gradient"),
        (lambda outputs: outputs.detach().expand(1, 2), r"a tensor of shape \(1, 2\)"),
        (lambda outputs: {"logits": outputs}, "of type dict"),
        (lambda outputs: None, "of type NoneType"),
    ],
)
def test_a_pair_of_loss_and_outputs_is_not_taken_for_a_sum_and_its_weight(
    tmp_path: Any, second: Any, message: str
) -> None:
    def loss_fn(outputs: Tensor, labels: Tensor) -> Any:
        return (outputs - labels).square().mean(), second(outputs)

    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=1, max_steps=1, save_strategy="no")
    rows = torch.utils.data.TensorDataset(torch.ones(4, 3), torch.ones(4, 1))

    with pytest.raises(TracksideTypeError, match=message):
        Trainer(nn.Linear(3, 1), args, train_dataset=rows, loss_fn=loss_fn).train()


@pytest.mark.parametrize("weight", [2, 2.0, np.int64(2), torch.tensor(2), torch.tensor([2.0])])
def test_a_weight_is_a_number_in_any_form(tmp_path: Any, weight: Any) -> None:
    def loss_fn(outputs: Tensor, labels: Tensor) -> Any:
        return (outputs - labels).square().sum(), weight

    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=2, max_steps=1, save_strategy="no")
    rows = torch.utils.data.TensorDataset(torch.ones(4, 3), torch.ones(4, 1))
    model = nn.Linear(3, 1)
    expected = (model(torch.ones(1, 3)) - 1.0).square().item()

    assert Trainer(model, args, train_dataset=rows, loss_fn=loss_fn).train().training_loss == pytest.approx(expected)
