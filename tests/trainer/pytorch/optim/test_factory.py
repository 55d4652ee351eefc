from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from trackside.callbacks.errors import ArgumentError, TracksideValueError
from trackside.trainer.arguments.fields import assignments
from trackside.trainer.pytorch.optim.factory import (
    create_optimizer,
    create_scheduler,
    decay_parameter_names,
)
from trackside.trainer.pytorch.optim.lion import Lion


def arguments(**changes):
    values = {
        "optim": "adamw_torch",
        "optim_args": None,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-7,
        "lr_scheduler_type": "linear",
        "lr_scheduler_kwargs": None,
        "warmup_steps": 0,
        "warmup_ratio": 0.0,
        "greater_is_better": None,
        "is_default": lambda name: True,
    }
    if isinstance(changes.get("optim_args"), str):
        changes["optim_args"] = assignments(changes["optim_args"])
    return SimpleNamespace(**{**values, **changes})


class MyScaleNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))


class PreNormBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = MyScaleNorm()
        self.inner = nn.Linear(4, 4)


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.block = PreNormBlock()
        self.batch = nn.BatchNorm1d(4)
        self.instance = nn.InstanceNorm1d(4, affine=True)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.rms = nn.RMSNorm(4)
        self.recurrent = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_biases_and_norm_weights_are_not_decayed():
    assert decay_parameter_names(Everything()) == [
        "embedding.weight",
        "block.inner.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]


def transformers_models():
    transformers = pytest.importorskip("transformers")
    small = {
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    yield transformers.BertForSequenceClassification(transformers.BertConfig(**small))
    yield transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, num_key_value_heads=2))
    yield transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))
    t5 = {"vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    yield transformers.T5ForConditionalGeneration(transformers.T5Config(**t5))


def test_models_of_transformers_are_decayed_as_its_own_trainer_does():
    for model in transformers_models():
        names = [name for name, _ in model.named_parameters()]
        theirs = set(sys.modules["transformers"].Trainer.get_decay_parameter_names(None, model))

        assert decay_parameter_names(model) == [name for name in names if name in theirs], type(model).__name__


def test_each_trainable_parameter_is_in_one_of_two_groups_once():
    model = Everything()
    model.block.inner.weight.requires_grad_(False)

    groups = create_optimizer(model, arguments()).param_groups

    params = [param for group in groups for param in group["params"]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert len(params) == len({id(param) for param in params})
    assert {id(param) for param in params} == {id(param) for param in model.parameters() if param.requires_grad}


def test_there_are_two_groups_even_where_one_is_empty():
    optimizer = create_optimizer(nn.Linear(2, 2, bias=False), arguments(weight_decay=0.0))

    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]


def test_complex_parameters_are_trained_without_the_fused_kernel():
    model = nn.ParameterList([torch.ones(2, dtype=torch.complex64)])

    optimizer = create_optimizer(model, arguments(optim="adamw_torch_fused"))
    model[0].abs().sum().backward()
    optimizer.step()

    assert model[0].abs().max() < 1


def test_a_model_without_trainable_parameters_is_refused():
    with pytest.raises(TracksideValueError, match="Linear has no trainable parameter: none has requires_grad=True"):
        create_optimizer(nn.Linear(2, 2).requires_grad_(False), arguments())


ADAM = {"lr": 1e-3, "betas": (0.8, 0.95), "eps": 1e-7}


@pytest.mark.parametrize(
    ("name", "optim_args", "cls", "defaults"),
    [
        ("adamw_torch", None, torch.optim.AdamW, {**ADAM, "fused": None}),
        ("adamw_torch_fused", None, torch.optim.AdamW, {**ADAM, "fused": True}),
        ("adamw_torch", "betas=(0.9, 0.95), amsgrad=true", torch.optim.AdamW, {"betas": (0.9, 0.95), "amsgrad": True}),
        ("sgd", "momentum=0.9, nesterov=True", torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9, "nesterov": True}),
        ("adafactor", "d=2.0", torch.optim.Adafactor, {"lr": 1e-3, "d": 2.0}),
        ("adagrad", None, torch.optim.Adagrad, {"lr": 1e-3}),
        ("rmsprop", {"alpha": 0.5}, torch.optim.RMSprop, {"lr": 1e-3, "alpha": 0.5}),
        ("lion", None, Lion, {"lr": 1e-3, "betas": (0.9, 0.99)}),
        ("sgd", "lr=0.5", torch.optim.SGD, {"lr": 0.5}),
    ],
)
def test_an_optimizer_by_name_gets_its_options_and_trains(name, optim_args, cls, defaults):
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    optimizer = create_optimizer(model, arguments(optim=name, optim_args=optim_args))
    before = model[0].weight.detach().clone()

    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()

    assert type(optimizer) is cls
    assert {key: optimizer.defaults[key] for key in defaults} == defaults
    assert not torch.equal(model[0].weight, before)


def test_a_class_with_options_takes_the_place_of_a_name():
    optimizer = create_optimizer(nn.Linear(2, 2), arguments(optim="sgd"), (torch.optim.Adam, {"lr": 0.25}))

    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["lr"] == 0.25
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize(
    ("optim_args", "cls_and_options"),
    [("weight_decay=0.3", None), (None, (torch.optim.SGD, {"lr": 0.5, "weight_decay": 0.3}))],
    ids=["by name", "by class"],
)
def test_a_weight_decay_among_the_options_counts_for_what_is_decayed(optim_args, cls_and_options):
    optimizer = create_optimizer(nn.Linear(3, 2), arguments(optim_args=optim_args), cls_and_options)

    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def test_an_unknown_optimizer_is_refused_with_the_nearest_name():
    with pytest.raises(ArgumentError, match=r"optim='adamw_troch' is not allowed: one .* mean 'adamw_torch'\?"):
        create_optimizer(nn.Linear(2, 2), arguments(optim="adamw_troch"))


def test_an_unknown_option_is_refused_with_the_nearest_name():
    message = r"optim_args=\{'momentun': 0.9\} is not allowed: SGD takes lr, momentum, .*\. Did you mean 'momentum'\?"

    with pytest.raises(ArgumentError, match=message):
        create_optimizer(nn.Linear(2, 2), arguments(optim="sgd", optim_args="momentun=0.9"))


def test_the_eight_bit_adamw_comes_from_bitsandbytes(monkeypatch):
    package = ModuleType("bitsandbytes")
    package.optim = SimpleNamespace(AdamW8bit=torch.optim.AdamW)
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", package.optim)

    optimizer = create_optimizer(nn.Linear(2, 2), arguments(optim="adamw_8bit"))

    assert {key: optimizer.defaults[key] for key in ADAM} == ADAM


def test_a_scheduler_changes_the_learning_rate_of_both_groups_step_by_step():
    optimizer = create_optimizer(nn.Linear(2, 2), arguments())
    scheduler = create_scheduler(optimizer, arguments(warmup_ratio=0.2), num_training_steps=10)
    rates = []

    for _ in range(10):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()

    expected = [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert rates == [[pytest.approx(1e-3 * factor)] * 2 for factor in expected]


def test_the_state_of_a_scheduler_is_plain_data_and_restores_it(tmp_path):
    def make():
        optimizer = create_optimizer(nn.Linear(2, 2), arguments())
        return optimizer, create_scheduler(optimizer, arguments(lr_scheduler_type="cosine"), 10)

    optimizer, scheduler = make()
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    torch.save(scheduler.state_dict(), tmp_path / "scheduler.pt")
    _, other = make()
    other.load_state_dict(torch.load(tmp_path / "scheduler.pt", weights_only=True))

    assert other.last_epoch == 3
    assert other.get_last_lr() == scheduler.get_last_lr()


PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau"}


def test_a_plateau_scheduler_follows_the_direction_of_the_metric():
    optimizer = create_optimizer(nn.Linear(2, 2), arguments())
    options = {"patience": 0, "factor": 0.5}
    args = arguments(**PLATEAU, lr_scheduler_kwargs=options, greater_is_better=True)
    scheduler = create_scheduler(optimizer, args, 10)

    for accuracy in (0.5, 0.6, 0.6):
        scheduler.step(accuracy)

    assert scheduler.mode == "max"
    assert optimizer.param_groups[0]["lr"] == 0.5e-3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lr_scheduler_type": "reduce_on_plateau"}, "Did you mean 'reduce_lr_on_plateau'?"),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"pationce": 1}},
            "Did you mean 'patience'?",
        ),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"cycles": 1}}, "Did you mean 'num_cycles'?"),
    ],
)
def test_unknown_schedulers_and_options_are_refused_with_the_nearest_name(changes, text):
    optimizer = create_optimizer(nn.Linear(2, 2), arguments())

    with pytest.raises(ArgumentError) as caught:
        create_scheduler(optimizer, arguments(**changes), 10)

    assert text in str(caught.value)
