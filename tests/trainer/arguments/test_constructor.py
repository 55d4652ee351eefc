"""What a constructor gets in the wrong place, or under a wrong name, is an error that names the right one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from trackside.callbacks.errors import CallbackError, TracksideTypeError


def accuracy_score(y_true: Any, y_pred: Any, *, normalize: bool = True) -> float:
    """Has the arguments of a function of scikit-learn."""
    return 0.0


@pytest.fixture(params=["pytorch", "tensorflow"])
def trainer_class(request: Any) -> Any:
    pytest.importorskip({"pytorch": "torch", "tensorflow": "tensorflow"}[request.param])
    import trackside

    return trackside.Trainer if request.param == "pytorch" else trackside.TFTrainer


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_datset": []}, r"Trainer\(\) has no argument 'train_datset'. Did you mean 'train_dataset'\?"),
        ({"learning_rate": 1e-3}, r"'learning_rate': it is a field of the training arguments"),
        ({"compute_metrics": 3}, r"compute_metrics is a function, compute_metrics\(prediction\), not int"),
        (
            {"compute_metrics": lambda predictions, labels: {}},
            r"is called as compute_metrics\(prediction\), and <lambda> takes \(predictions, labels\): missing a",
        ),
        ({"compute_metrics": dict}, r"compute_metrics is a function or an instance, not the class: dict\(\)"),
        ({"model_init": 3}, r"model_init is a function, model_init\(\), not int"),
        (
            {"compute_metrics": accuracy_score},
            r"accuracy_score takes \(y_true, .*missing.* lambda p: {'name': metric\(p.pred",
        ),
        (
            {"model_init": lambda trial, width: None},
            r"model_init is called as model_init\(trial\), .*: missing.*'width'",
        ),
        ({"optimizers": 3}, r"optimizers is a pair, \(optimizer, schedule\), .*; not int"),
        ({"optimizers": (1, 2, 3)}, "not 3 values"),
        ({"optimizers": (dict, None)}, "optimizers has the class dict; give an instance of it"),
        ({"optimizers": (lambda model: None, None)}, "optimizers has a function; give the optimizer that it makes"),
    ],
)
def test_a_wrong_argument_is_named(trainer_class: Any, given: Any, message: str) -> None:
    with pytest.raises(TracksideTypeError, match=message):
        trainer_class(None, **given)


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (["early_stopping"], r"not the name 'early_stopping'; names go into the training arguments: callbacks="),
        ("early_stopping", "a list of callbacks, not 'early_stopping'"),
        (object(), "a list of callbacks, not object"),
    ],
)
def test_callbacks_are_a_list_of_callbacks(trainer_class: Any, callbacks: Any, message: str) -> None:
    with pytest.raises(CallbackError, match=message):
        trainer_class(None, callbacks=callbacks)


def test_the_signature_is_still_shown(trainer_class: Any) -> None:
    names = list(inspect.signature(trainer_class).parameters)

    assert names[:2] == ["model", "args"]
    assert "loss_fn" in names


def test_datasets_by_position_are_told_their_names(tmp_path: Any) -> None:
    pytest.importorskip("torch")
    import torch

    from trackside import Trainer, TrainingArguments

    data = torch.utils.data.TensorDataset(torch.zeros(2, 1))

    with pytest.raises(TracksideTypeError, match=r"data_collator is .*, not TensorDataset. Give datasets by name"):
        Trainer(torch.nn.Linear(1, 1), TrainingArguments(str(tmp_path)), data, data)
