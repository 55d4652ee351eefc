"""Optimizers of other packages: each name of transformers is built, or an error says what is missing or what to use."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.tiny_bert import tiny_bert
from torch import nn

from trackside import TFTrainingArguments, Trainer, TrainingArguments
from trackside.callbacks.errors import ArgumentError, MissingPackageError, UnsupportedError
from trackside.trainer.pytorch.optim.factory import OPTIMIZERS, create_optimizer
from trackside.trainer.pytorch.optim.packaged import PACKAGED

transformers = pytest.importorskip("transformers")
THEIRS = [item.value for item in transformers.training_args.OptimizerNames]


def targets_of(name):
    return {"optim_target_modules": "all-linear"} if name in PACKAGED and PACKAGED[name].of_targets else {}


@pytest.mark.parametrize("name", [*THEIRS, "nadam", "radam", "muon", "adamw_hf"])
def test_each_name_is_taken_or_answered(name):
    missing = PACKAGED[name].missing if name in PACKAGED else ""

    if name not in OPTIMIZERS:
        with pytest.raises(ArgumentError, match=rf"optim='{name}' is not allowed: (give|use|.*; use) ") as caught:
            TrainingArguments("out", optim=name)
        assert "one of" not in str(caught.value)
    elif missing:
        with pytest.raises(MissingPackageError, match=f"optim='{name}' needs the package '{missing}'"):
            TrainingArguments("out", optim=name)
    else:
        assert TrainingArguments("out", optim=name, **targets_of(name)).optim == name


@pytest.mark.parametrize("name", ["nadam", "radam", *PACKAGED])
def test_each_makes_an_optimizer_with_the_decay_of_its_groups_that_trains(name):
    if name in PACKAGED and PACKAGED[name].missing:
        pytest.skip(f"{PACKAGED[name].missing} is not installed")
    if name == "galore_adamw_8bit" and not torch.cuda.is_available():
        pytest.skip("its step needs CUDA")
    model = nn.Linear(64, 64)
    args = TrainingArguments("out", optim=name, learning_rate=1e-2, weight_decay=0.1, **targets_of(name))
    optimizer = create_optimizer(model, args)
    before = model.weight.detach().clone()

    model(torch.ones(2, 64)).sum().backward()
    getattr(optimizer, "train", lambda: None)()
    for _ in range(8):  # the first ones of RAdam are none
        optimizer.step()

    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, *[0.1 for _ in targets_of(name)]]
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"])
def test_a_schedule_free_optimizer_trains_as_in_transformers(name, tmp_path):
    pytest.importorskip("schedulefree")
    data = [{"input_ids": [3 + i % 5, 4, 5], "labels": [i % 5, 1, 2]} for i in range(16)]
    weights = []
    for trainer_class, args_class in (
        (Trainer, TrainingArguments),
        (transformers.Trainer, transformers.TrainingArguments),
    ):
        args = args_class(
            output_dir=str(tmp_path / trainer_class.__module__),
            optim=name,
            max_steps=6,
            warmup_steps=2,
            learning_rate=1e-2,
            weight_decay=0.1,
            lr_scheduler_type="constant",
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = trainer_class(model=tiny_bert(), args=args, train_dataset=data)
        trainer.train()
        trainer.optimizer.eval()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()]))

    assert float((weights[0] - weights[1]).abs().max()) < 1e-5


@pytest.mark.parametrize("given", [{"warmup_ratio": 0.1}, {"warmup_steps": 0.1}])
def test_the_warm_up_of_a_schedule_free_optimizer_is_a_number_of_updates(given):
    pytest.importorskip("schedulefree")
    (field,) = given

    with pytest.raises(ArgumentError, match=f"{field}=0.1 is not allowed: 0 with optim='schedule_free_adamw'"):
        create_optimizer(nn.Linear(2, 2), TrainingArguments("out", optim="schedule_free_adamw", **given))


def test_tensorflow_has_none_of_them():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("nadam", *PACKAGED):
            with pytest.raises(UnsupportedError, match=rf"optim='{name}' cannot be used: only PyTorch has it"):
                TFTrainingArguments("out", optim=name)
