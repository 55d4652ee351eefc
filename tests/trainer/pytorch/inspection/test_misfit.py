"""Data that a layer or a loss cannot take are an error that names it, the data and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.torch_models import classified
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trackside import Trainer, TrainingArguments
from trackside.callbacks.errors import TracksideError, TracksideTypeError, TracksideValueError

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(8, dtype=torch.long)


def fit(
    tmp_path: Any, model: nn.Module, data: Any, *, loss_fn: Any = functional.cross_entropy, evaluate: bool = False
) -> None:
    args = TrainingArguments(str(tmp_path), max_steps=1, save_strategy="no", disable_tqdm=True)
    trainer = Trainer(model, args, train_dataset=data, eval_dataset=data, loss_fn=loss_fn)
    trainer.evaluate() if evaluate else trainer.train()


@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (nn.Linear(5, 2), (X, Y), r"Linear\(in_features=5.*got float32 \(8, 4\); its last dimension is 5"),
        (nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 2)), (X, Y), r": 1, Linear.* got float32 \(8, 3\)"),
        (nn.Linear(4, 2), (X.double(), Y), r"got float64 \(8, 4\); its weights are float32"),
        (nn.Conv2d(3, 2, 1), (X.reshape(8, 1, 2, 2), Y), r"Conv2d.*it takes 3 channels"),
        (
            nn.Embedding(5, 2),
            (torch.full((8,), 7), Y),
            r"Embedding\(5, 2\).*it takes numbers from 0 to 4, and",
        ),
        (nn.Embedding(5, 2), (torch.zeros(8), Y), r"Embedding\(5, 2\).*it takes whole numbers"),
        (nn.Linear(4, 2), (X, Y + 2), r"labels int64 \(8\): labels are from 0 to 1, or -100 .*; these are from 2 to 2"),
        (nn.Linear(4, 2), (X, Y.float()), r"labels float32 \(8\): labels of classes are whole numbers"),
        (nn.Linear(4, 2), (X, Y[:, None]), r"outputs float32 \(8, 2\) and labels int64 \(8, 1\): .*\.squeeze\(1\)"),
    ],
)
def test_the_error_names_the_layer_or_the_labels(
    model: nn.Module, data: Any, message: str, evaluate: bool, tmp_path: Any
) -> None:
    with pytest.raises(TracksideValueError, match=message):
        fit(tmp_path, model, TensorDataset(*data), evaluate=evaluate)


@pytest.mark.parametrize("loss_fn", [nn.MSELoss(), functional.cross_entropy])
def test_outputs_that_are_no_tensor_are_told_with_what_the_model_returned(loss_fn: Any, tmp_path: Any) -> None:
    class Named(nn.Linear):
        def forward(self, input: Tensor) -> Any:
            return {"logits": super().forward(input)}

    with pytest.raises(TracksideValueError, match=r"of outputs {'logits': float32 \(8, 2\)}.* outputs are a tensor"):
        fit(tmp_path, Named(4, 2), TensorDataset(X, Y), loss_fn=loss_fn)


def text(self: Any, x: Tensor, text: Any) -> Any: ...


def by_position(self: Any, x: Tensor, /) -> Any: ...


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (text, "missing a required argument: 'text'. .* as default_data_collator does with texts"),
        (by_position, "positional only.* give tuples, which are given by position"),
        (nn.Module.forward, "Model has no forward"),
    ],
)
def test_fields_that_a_model_does_not_get_are_told_with_the_cause(forward: Any, message: str, tmp_path: Any) -> None:
    model = type("Model", (nn.Linear,), {"forward": forward})(4, 2)
    args = TrainingArguments(str(tmp_path), max_steps=1, save_strategy="no", remove_unused_columns=False)

    with pytest.raises(TracksideTypeError, match=message):
        Trainer(model, args, train_dataset=[{"x": x, "text": "a"} for x in X]).train()


def test_labels_of_a_binary_loss_are_floating_point_numbers_of_the_same_shape(tmp_path: Any) -> None:
    loss = nn.BCEWithLogitsLoss()

    with pytest.raises(TracksideValueError, match=r"binary_cross_entropy_with_logits .* both have the same shape"):
        fit(tmp_path, nn.Linear(4, 1), TensorDataset(X, Y.float()), loss_fn=loss)


def test_labels_that_do_not_fit_a_model_with_its_own_loss_are_told_too(tmp_path: Any) -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor, labels: Tensor) -> Any:
            logits = super().forward(x)
            return {"loss": functional.cross_entropy(logits, labels), "logits": logits}

    with pytest.raises(TracksideValueError, match=r"labels are from 0 to 1"):
        fit(tmp_path, Own(4, 2), [{"x": x, "labels": 5} for x in X], loss_fn=None)


def test_one_example_is_too_few_for_batch_normalization(tmp_path: Any) -> None:
    with pytest.raises(TracksideValueError, match=r"cannot be trained on one example: .*dataloader_drop_last=True"):
        fit(tmp_path, nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), TensorDataset(X[:1], Y[:1]))


def test_an_error_of_the_users_own_stays_what_it_is(tmp_path: Any) -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            raise ValueError("of mine")

    with pytest.raises(ValueError, match=r"^of mine$") as caught:
        fit(tmp_path, Own(4, 2), TensorDataset(X, Y))
    assert not isinstance(caught.value, TracksideError)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (nn.CrossEntropyLoss, r"not the class: CrossEntropyLoss\(\)"),
        ("cross_entrpy", r"not str cross_entrpy. Did you mean 'cross_entropy'"),
        (3, "not int"),
    ],
)
def test_a_loss_is_a_function_or_an_instance(loss_fn: Any, message: str, tmp_path: Any) -> None:
    with pytest.raises(TracksideTypeError, match=message):
        Trainer(nn.Linear(4, 2), TrainingArguments(str(tmp_path)), loss_fn=loss_fn)


def test_a_model_without_a_loss_is_told(tmp_path: Any) -> None:
    with pytest.raises(TracksideTypeError, match=r"Linear has no loss: .* Give the trainer loss_fn="):
        fit(tmp_path, nn.Linear(6, 3), classified(8), loss_fn=None)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_where_gradients_are_off_is_told(context: Any, tmp_path: Any) -> None:
    with pytest.raises(TracksideValueError, match="gradients are switched off around train"), context():
        fit(tmp_path, nn.Linear(4, 2), TensorDataset(X, Y))


def test_a_loss_without_a_gradient_is_told(tmp_path: Any) -> None:
    def cut_off(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, labels).detach()

    with pytest.raises(TracksideValueError, match="the loss has no gradient, since it depends on no parameter"):
        fit(tmp_path, nn.Linear(4, 2), TensorDataset(X, Y), loss_fn=cut_off)


def test_a_model_that_takes_gradients_in_its_forward_pass_is_told_in_an_evaluation(tmp_path: Any) -> None:
    class Slope(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            place = input.clone().requires_grad_()
            return torch.autograd.grad(super().forward(place).sum(), place, create_graph=True)[0]

    with pytest.raises(TracksideValueError, match=r"Slope takes gradients in its forward pass.* torch.enable_grad\(\)"):
        fit(tmp_path, Slope(4, 4), TensorDataset(X, Y), evaluate=True)


def test_labels_that_are_texts_are_told(tmp_path: Any) -> None:
    data = [(row, "ab"[int(label)]) for row, label in zip(X, Y, strict=True)]

    with pytest.raises(TracksideValueError, match="labels are a tensor; give each class its number"):
        fit(tmp_path, nn.Linear(4, 2), data)


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        (lambda rows: ([X], Y), r"Linear.* got \(float32 \(8, 4\)\); it takes a tensor. Make tensors"),
        (lambda rows: (X.numpy(), Y), "got ndarray; it takes a tensor"),
        (lambda rows: None, "got NoneType; it takes a tensor"),
        (lambda rows: (part for part in (X, Y)), "got generator; it takes a tensor"),
    ],
)
def test_batches_that_are_not_tensors_are_told(collate: Any, message: str, tmp_path: Any) -> None:
    args = TrainingArguments(str(tmp_path), max_steps=1, save_strategy="no", disable_tqdm=True)
    data = TensorDataset(X, Y)
    trainer = Trainer(nn.Linear(4, 2), args, collate, data, loss_fn=functional.cross_entropy)

    with pytest.raises(TracksideValueError, match=message):
        trainer.train()


def test_columns_that_are_numbers_are_named(tmp_path: Any) -> None:
    rows: Any = [{0: x, 1: y} for x, y in zip(X, Y, strict=True)]

    with pytest.raises(TracksideValueError, match="takes none of the dataset's columns 0, 1; it takes input"):
        fit(tmp_path, nn.Linear(4, 2), rows)
