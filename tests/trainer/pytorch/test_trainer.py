"""The Trainer where it is PyTorch's own: its models, precision, memory. What both trainers do is in tests/both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.arrays import accuracy
from support.torch_models import DictDataset, classified, mlp, weights_of
from torch import Tensor, nn

from trackside import Trainer
from trackside.callbacks.errors import TracksideValueError

Make = Callable[..., Trainer]


# -- models and data --------------------------------------------------------------------------------------------------


def test_the_subclass_of_the_reference_documentation_works_as_printed(make_trainer: Make) -> None:
    calls: list[bool] = []

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, x: Tensor) -> tuple[Tensor]:
            calls.append(self.training)
            return (self.inner(x),)

    def my_custom_loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(logits, labels)

    class MyTrainer(Trainer):
        def compute_loss(self, model: Any, inputs: Any) -> Any:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            logits = outputs[0]
            return my_custom_loss(logits, labels)

    features, labels = classified(20).tensors
    dataset = DictDataset(x=features, labels=labels)
    trainer = make_trainer(
        MyTrainer, model=Named(), train_dataset=dataset, eval_dataset=dataset, loss_fn=None, compute_metrics=accuracy
    )
    trainer.train()
    calls.clear()

    metrics = trainer.evaluate()

    assert calls == [False] * 3, "one forward pass for each batch"
    with torch.no_grad():
        expected = my_custom_loss(trainer.model.eval()(features)[0], labels)
    assert metrics["eval_loss"] == pytest.approx(float(expected), abs=1e-6)
    assert 0.0 <= metrics["eval_accuracy"] <= 1.0


def test_a_model_without_a_loss_gets_a_clear_error(make_trainer: Make) -> None:
    with pytest.raises(TracksideValueError, match=r"returned no loss.*loss_fn"):
        make_trainer(loss_fn=None, model=_OnlyLogits(), train_dataset=DictDataset(x=torch.randn(8, 6))).train()


class _OnlyLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(x)}


def test_a_model_with_tied_weights_and_a_transformers_model_train_save_and_load(
    make_trainer: Make, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForMaskedLM(config)
    ids = torch.randint(0, 30, (20, 7))
    dataset = DictDataset(input_ids=ids, labels=ids)
    trainer = make_trainer(model=model, train_dataset=dataset, eval_dataset=dataset, loss_fn=None, num_train_epochs=1)

    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    output = trainer.predict(dataset)

    loaded = transformers.BertForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        expected = loaded(input_ids=ids, labels=ids)
    np.testing.assert_allclose(output.predictions, expected.logits.numpy(), atol=1e-5)
    assert output.metrics["test_loss"] == pytest.approx(float(expected.loss), abs=1e-5)


# -- evaluation and prediction ----------------------------------------------------------------------------------------


def test_texts_among_the_labels_come_out_one_for_each_example(make_trainer: Make) -> None:
    def collate(rows: list[Any]) -> dict[str, Any]:
        features, classes = map(torch.stack, zip(*rows, strict=True))
        return {"features": features, "labels": {"class": classes, "name": [f"class {i}" for i in classes.tolist()]}}

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mlp()

        def forward(self, features: Tensor, labels: dict[str, Any]) -> dict[str, Tensor]:
            logits = self.inner(features)
            return {"loss": nn.functional.cross_entropy(logits, labels["class"]), "logits": logits}

    data = classified(5)
    trainer = make_trainer(model=Classifier(), data_collator=collate, loss_fn=None, per_device_eval_batch_size=2)

    labels = trainer.predict(data).label_ids

    assert labels["class"].tolist() == data.tensors[1].tolist()
    assert labels["name"].tolist() == [f"class {i}" for i in data.tensors[1].tolist()]


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 3])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(make_trainer: Make, accumulation: int) -> None:
    largest = 3

    class Small(nn.Module):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.inner, self.limit = mlp(dtype=torch.float64), limit

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory (pretended by a test)")
            return self.inner(x)

    def run(limit: int) -> Trainer:
        trainer = make_trainer(
            model=Small(limit),
            train_dataset=classified(29, dtype=torch.float64),
            auto_find_batch_size=True,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
        )
        trainer.train()
        return trainer

    roomy, tight = run(100), run(largest)

    torch.testing.assert_close(weights_of(tight.model), weights_of(roomy.model), rtol=0, atol=1e-10)
    for one, other in zip(roomy.state.log_history[:-1], tight.state.log_history[:-1], strict=True):
        assert one == pytest.approx(other, abs=1e-9)


def test_gradient_checkpointing_says_when_the_model_cannot(make_trainer: Make) -> None:
    with pytest.raises(TracksideValueError, match="Sequential has none"):
        make_trainer(gradient_checkpointing=True).train()


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_weights_and_keeps_its_names(make_trainer: Make) -> None:
    plain, compiled = make_trainer(), make_trainer(torch_compile=True)
    plain.train()
    compiled.train()

    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    torch.testing.assert_close(weights_of(compiled.model), weights_of(plain.model))


# -- odds and ends ----------------------------------------------------------------------------------------------------


def test_memory_metrics_are_given_on_request(make_trainer: Make) -> None:
    pytest.importorskip("psutil")

    class Hungry(nn.Module):
        """Takes 80 MB for a moment and keeps 40 MB."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.kept = mlp(), None

        def forward(self, x: Tensor) -> Tensor:
            if self.kept is None:
                self.kept = np.ones(5_000_000)
                passing = np.ones(10_000_000)
                time.sleep(0.4)  # long enough for the sampler to see it on a busy machine
                del passing
            return self.inner(x)

    trainer = make_trainer(model=Hungry(), skip_memory_metrics=False, eval_dataset=classified(8))

    metrics = trainer.train().metrics
    evaluated = trainer.evaluate()

    assert metrics["train_mem_cpu_alloc_delta"] > 30e6
    assert metrics["train_mem_cpu_peaked_delta"] > 60e6
    assert "eval_mem_cpu_alloc_delta" in evaluated
