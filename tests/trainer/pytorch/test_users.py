"""The Trainer as its users use it: models, outputs, datasets and subclasses of many kinds, and their mistakes."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.arrays import accuracy
from support.torch_models import DictDataset, classified, mlp, weights_of
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

FEATURES, LABELS = classified(20).tensors
CrossEntropy = nn.CrossEntropyLoss()


class Linear(nn.Module):
    """Logits by position or name, without a loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


@dataclass
class Fields:
    loss: Tensor | None
    logits: Tensor
    extra: Tensor | None = None


Named = namedtuple("Named", "loss logits")
FORMS: dict[str, Any] = {
    "dict": lambda loss, logits: {"loss": loss, "logits": logits, "name": "a"},
    "dataclass": Fields,
    "named_tuple": Named,
    "tuple": lambda loss, logits: (logits,) if loss is None else (loss, logits),
}


class WithLoss(Linear):
    """A loss, where there are labels, and logits in one of `FORMS`."""

    def __init__(self, form: str = "dict") -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.layer(x)
        return FORMS[self.form](None if labels is None else CrossEntropy(logits, labels), logits)


def labelled(**more: Tensor) -> DictDataset:
    return DictDataset(x=FEATURES, labels=LABELS, **more)


# -- outputs of a model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("form", FORMS)
def test_a_model_may_return_a_dict_a_dataclass_a_named_tuple_or_a_tuple(make_trainer, form, smoothing):
    options = {"train_dataset": labelled(), "eval_dataset": labelled(), "compute_metrics": accuracy, "loss_fn": None}
    trainer = make_trainer(model=WithLoss(form), max_steps=2, label_smoothing_factor=smoothing, **options)

    trainer.train()
    metrics, unlabelled = trainer.evaluate(), trainer.predict(DictDataset(x=FEATURES))

    assert {"eval_loss", "eval_accuracy"} <= metrics.keys()
    assert unlabelled.predictions.shape == (20, 3)
    assert unlabelled.label_ids is None


@pytest.mark.parametrize("form", ["dict", "dataclass", "tuple"])
def test_a_loss_without_labels_is_evaluated(make_trainer, form):
    class Autoencoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Any:
            return FORMS[form](F.mse_loss(self.layer(x), x), self.layer(x))

    data = DictDataset(x=FEATURES)

    metrics = make_trainer(model=Autoencoder(), train_dataset=data, eval_dataset=data, loss_fn=None).evaluate()

    assert metrics["eval_loss"] > 0


def test_labels_of_several_tasks_are_one_value_each_in_predictions(make_trainer):
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kind, self.size = nn.Linear(6, 3), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Any:
            return self.kind(x), self.size(x)[:, 0]

    def loss_fn(outputs: Any, labels: Any) -> Tensor:
        return CrossEntropy(outputs[0], labels[0]) + F.mse_loss(outputs[1], labels[1])

    data = DictDataset(x=FEATURES, kind=LABELS, size=FEATURES[:, 0])
    options = {"label_names": ["kind", "size"], "loss_fn": loss_fn, "train_dataset": data, "max_steps": 2}
    trainer = make_trainer(model=TwoHeads(), gradient_accumulation_steps=2, **options)

    trainer.train()
    output = trainer.predict(data)

    assert [part.shape for part in output.predictions] == [(20, 3), (20,)]
    assert [part.shape for part in output.label_ids] == [(20,), (20,)]


# -- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
def test_sparse_gradients_are_clipped_by_their_true_norm(make_trainer, accumulation):
    class Bag(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words, self.out = nn.EmbeddingBag(10, 4, sparse=sparse), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.words(x))

    data = TensorDataset(torch.arange(100).reshape(20, 5) % 7, LABELS)
    options = {"train_dataset": data, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.1, "max_steps": 3}
    trainers = [
        make_trainer(model=Bag(sparse), gradient_accumulation_steps=accumulation, **options) for sparse in (True, False)
    ]

    losses = [trainer.train().training_loss for trainer in trainers]

    assert losses[0] == pytest.approx(losses[1])
    torch.testing.assert_close(weights_of(trainers[0].model), weights_of(trainers[1].model))


def test_frozen_and_unused_parameters_stay_as_they_are(make_trainer):
    model = mlp()
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: model[:4](x)
    frozen = model[0].requires_grad_(False).weight.clone()
    unused = model.unused.weight.clone()

    make_trainer(model=model, learning_rate=0.1, gradient_accumulation_steps=2, auto_find_batch_size=True).train()

    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(model.unused.weight, unused)


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_the_model_does_not_take_is_named_beside_what_it_takes(make_trainer):
    data = DictDataset(features=FEATURES, labels=LABELS)

    class Model(Linear):
        def forward(self, feature: Tensor) -> Tensor:
            return self.layer(feature)

    with pytest.raises(TypeError, match=r"forward\(feature\) was given features by name: .*Did you mean 'feature'"):
        make_trainer(model=Model(), train_dataset=data, remove_unused_columns=False).train()


def test_a_model_that_returns_its_loss_alone_has_no_predictions(make_trainer):
    class Alone(Linear):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.cross_entropy(self.layer(x), labels)

    data = DictDataset(x=FEATURES, labels=LABELS)

    prediction = make_trainer(model=Alone(), train_dataset=data, loss_fn=None).predict(data)

    assert prediction.predictions is None
    assert prediction.metrics["test_loss"] > 0


def test_labels_that_reach_a_model_without_loss_fn_are_explained(make_trainer):
    with pytest.raises(TypeError, match=r"Linear has no loss: it takes 1 of the 2 parts .* loss_fn=..., which"):
        make_trainer(model=Linear(), train_dataset=TensorDataset(FEATURES, LABELS), loss_fn=None).train()


def test_an_error_inside_forward_is_not_taken_for_a_wrong_batch(make_trainer):
    class Faulty(Linear):
        def forward(self, x: Tensor) -> Any:
            return self.layer(x) + "a"

    with pytest.raises(TypeError, match="unsupported operand"):
        make_trainer(model=Faulty()).train()


def test_logits_are_not_taken_for_a_loss(make_trainer):
    class TwoLogits(Linear):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
            return self.layer(x), self.layer(x)

    with pytest.raises(ValueError, match=r"returned no loss, only: tuple of Tensor of shape \(8, 3\)"):
        make_trainer(model=TwoLogits(), loss_fn=None).train()


class OnceOnly(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (iter([]), "can be read only once"),
        (lambda: iter([]), "is not a dataset"),
        ("train.csv", "str is not a dataset"),
        ({"x": FEATURES}, r"dict is not a dataset of examples: it holds columns by name; give .*from_dict"),
        ({0: FEATURES[0]}, r"its keys are numbers; give the examples, list\(dataset.values\(\)\)"),
        ({"train": classified(2)}, r"it holds several by name; give one of them, such as dataset\['train'\]"),
        ((FEATURES, LABELS), "give TensorDataset"),
        ([classified(2)], "list of 1 datasets is not a dataset of examples: give one of them, or their ConcatDataset"),
        (3, "int is not a dataset: it needs __getitem__ and"),
        (classified(0), "holds no batch"),
        (OnceOnly(), "gave no batch"),
    ],
)
def test_what_is_no_dataset_says_so(make_trainer, dataset, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_trainer(train_dataset=dataset, max_steps=2).train()


@pytest.mark.parametrize("name", ["input", "unknown"])
@pytest.mark.parametrize(("package", "made"), [("pandas", r"Dataset.from_pandas\("), ("pyarrow", r"Dataset\(")])
def test_a_table_of_columns_is_refused_with_what_to_give_instead(make_trainer, package, made, name):
    module = pytest.importorskip(package)
    columns = {name: [1.0, 2.0], "labels": [0, 1]}
    table = module.DataFrame(columns) if package == "pandas" else module.table(columns)

    with pytest.raises(TypeError, match=f"is a table of columns, not a dataset of examples; give datasets.{made}table"):
        make_trainer(train_dataset=table).train()
