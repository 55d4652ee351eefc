"""What an evaluation collects is what the model returns; a loss is a loss, whatever its shape."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.torch_models import classified
from torch import nn

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideValueError


def trainer_of(model: nn.Module, tmp_path: Any, cls: Any = Trainer, *, args: Any = (), **options: Any) -> Trainer:
    arguments = {"per_device_eval_batch_size": 4, "disable_tqdm": True, "save_strategy": "no", "max_steps": 2}
    return cls(model, TrainingArguments(str(tmp_path), **{**arguments, **dict(args)}), **options)


class Returns(nn.Module):
    """Returns what a function makes of its logits and labels."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.make = nn.Linear(3, 2), make

    def forward(self, x: Any, labels: Any = None) -> Any:
        return self.make(self.layer(x), labels)


def rows(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [{"x": torch.randn(3, generator=generator), "labels": torch.tensor(i % 2)} for i in range(count)]


def losses(logits: Any, labels: Any) -> Any:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize(
    "make",
    [
        lambda z, y: (losses(z, y).mean(), z),
        lambda z, y: (losses(z, y).mean().reshape(1), z),
        lambda z, y: (losses(z, y), z),
        lambda z, y: {"loss": losses(z, y), "logits": z},
        lambda z, y: SimpleNamespace(loss=losses(z, y).mean().reshape(1), logits=z),
        lambda z, y: (losses(z, y).mean().numpy(), z),
        lambda z, y: {"loss": float(losses(z, y).mean()), "logits": z.numpy()},
    ],
)
def test_a_loss_of_any_shape_is_a_loss_and_no_prediction(make: Any, tmp_path: Any) -> None:
    model = Returns(make)
    trainer = trainer_of(model, tmp_path)

    output = trainer.predict(rows(10))

    batch = {name: torch.stack([row[name] for row in rows(10)]) for name in ("x", "labels")}
    expected = nn.functional.cross_entropy(model.layer(batch["x"]), batch["labels"])
    assert output.predictions.shape == (10, 2)
    assert output.metrics["test_loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("make", [lambda z, y: {"loss": None, "logits": z}, lambda z, y: z])
def test_a_model_without_a_loss_predicts_labelled_data_and_says_what_evaluation_lacks(make: Any, tmp_path: Any) -> None:
    trainer = trainer_of(Returns(make), tmp_path)

    output = trainer.predict(rows(10))

    assert output.predictions.shape == (10, 2)
    assert output.label_ids.tolist() == [0, 1] * 5
    assert "test_loss" not in output.metrics
    with pytest.raises(TracksideValueError, match="the model returned no loss"):
        trainer.evaluate(rows(10))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_predictions_and_labels_keep_rows_that_are_no_examples(size: int, tmp_path: Any) -> None:
    make = lambda z, y: (torch.cat([z, -z]), z.repeat_interleave(3, 0), z.sum().reshape(1, 1))  # noqa: E731
    trainer = trainer_of(Returns(make), tmp_path, args={"per_device_eval_batch_size": size})

    output = trainer.predict([{"x": torch.ones(3) * i} for i in range(8)])

    batches = -(-8 // size)
    assert [part.shape for part in output.predictions] == [(16, 2), (24, 2), (batches, 1)]
    np.testing.assert_array_equal(output.predictions[1][2::3], output.predictions[1][::3])


def detect(count: list[int]) -> Any:
    return {"x": torch.ones(len(count), 3), "labels": [{"boxes": torch.ones(i % 4 + 1, 4) * i} for i in count]}


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_detection_gets_the_boxes_of_each_image(size: int, joined: bool, tmp_path: Any) -> None:
    seen: list[list[int]] = []

    def metrics(prediction: Any) -> dict[str, float]:
        labels = prediction.label_ids if joined else [label for batch in prediction.label_ids for label in batch]
        seen.append([len(label["boxes"]) for label in labels])
        return {}

    args = {"eval_do_concat_batches": joined, "per_device_eval_batch_size": size}
    model = Returns(lambda z, y: {"loss": z.mean(), "logits": z})
    trainer = trainer_of(model, tmp_path, args=args, data_collator=detect, compute_metrics=metrics)

    trainer.evaluate(list(range(10)))

    assert seen == [[i % 4 + 1 for i in range(10)]]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("uint8", "uint8"), ("bool", "bool"), ("bfloat16", "float32"), ("float16", "float16"), ("float8_e5m2", "float32")],
)
def test_predictions_keep_their_type_if_numpy_has_it(dtype: str, expected: str, tmp_path: Any) -> None:
    make = lambda z, y: torch.ones(len(z), 2).to(getattr(torch, dtype))  # noqa: E731

    predictions = trainer_of(Returns(make), tmp_path).predict([{"x": torch.ones(3)}] * 6).predictions

    assert predictions.dtype == expected
    assert predictions.tolist() == [[1, 1]] * 6


def test_nested_and_sparse_outputs_become_arrays(tmp_path: Any) -> None:
    make = lambda z, y: (z.to_sparse(), torch.nested.nested_tensor([torch.ones(i + 1) for i in range(len(z))]))  # noqa: E731

    sparse, nested = trainer_of(Returns(make), tmp_path).predict([{"x": torch.ones(3)}] * 5).predictions

    assert sparse.shape == (5, 2)
    assert nested.tolist()[1] == [1, 1, -100, -100]


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda z: (z, (z[:, 0], None)), [(5, 2), [(5,)]]),
        (lambda z: {"logits": z, "more": {"a": z, "b": None}}, [(5, 2), [(5, 2)]]),
        (lambda z: {"logits": z, "more": z[:, 0], "layers": (None, None), "cache": object()}, [(5, 2), (5,)]),
    ],
)
def test_a_none_within_an_output_is_left_out_and_nothing_else(tmp_path: Any, make: Any, shapes: Any) -> None:
    found = trainer_of(Returns(lambda z, y: make(z)), tmp_path).predict([{"x": torch.ones(3)}] * 5).predictions

    nested = [[*part.values()] if isinstance(part, dict) else part for part in found]
    assert [[p.shape for p in part] if isinstance(part, (list, tuple)) else part.shape for part in nested] == shapes


class ByMethod(Trainer):
    """Computes its loss by a method of the model."""

    def compute_loss(self, model: Any, inputs: Any) -> Any:
        return model.elbo(inputs[0])


class WithMethod(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 6)

    def elbo(self, x: Any) -> Any:
        return nn.functional.mse_loss(self.layer(x), x)


def test_a_loss_alone_may_be_computed_without_calling_the_model(tmp_path: Any) -> None:
    data = classified(10)
    trainer = trainer_of(WithMethod(), tmp_path, ByMethod, train_dataset=data, eval_dataset=data)

    trainer.train()
    metrics = trainer.evaluate()

    assert metrics["eval_loss"] == pytest.approx(float(trainer.model.elbo(data.tensors[0])), rel=1e-6)
    with pytest.raises(TracksideValueError, match=r"compute_loss did not call the model.*return_outputs"):
        trainer.predict(data)
    only_loss = copy.copy(trainer.args)
    only_loss.prediction_loss_only = True
    trainer.args = only_loss
    assert trainer.predict(data).predictions is None
