"""Arguments that are given and count only beside others, or not beside an optimizer that is given, are told once."""

from __future__ import annotations

from typing import Any

import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.testing.tiny_trainer import tiny_trainer
from trackside.trainer.arguments.validation import tell_unused

SHARED = [
    ({"eval_steps": 5}, "eval_steps=5", "eval_strategy='steps'"),
    ({"eval_delay": 2}, "eval_delay=2.0", "eval_strategy='steps' or 'epoch'"),
    ({"save_steps": 7}, "save_steps=7", "save_strategy='steps'"),
    ({"logging_strategy": "epoch", "logging_steps": 3}, "logging_steps=3", "logging_strategy='steps'"),
    ({"greater_is_better": True}, "greater_is_better=True", "metric_for_best_model or load_best_model_at_end"),
    ({"staging_dir": "stage"}, "staging_dir='stage'", "an output_dir that is an address"),
    ({"gradient_checkpointing_kwargs": {"use_reentrant": False}}, "gradient_checkpointing_kwargs=", ""),
    ({"fp16_opt_level": "O2"}, "fp16_opt_level='O2'", ""),
    ({"length_column_name": "size"}, "length_column_name='size'", ""),
    ({"ddp_timeout": 60, "ddp_backend": "gloo"}, "ddp_backend='gloo' and ddp_timeout=60", "several processes"),
]
COUNT = [
    {},
    {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 1},
    {"logging_strategy": "epoch", "logging_steps": 2, "eval_strategy": "steps"},  # logging_steps stands for eval_steps
    {"save_strategy": "steps", "save_steps": 2},
    {"eval_strategy": "epoch", "metric_for_best_model": "loss", "greater_is_better": False},
    {"greater_is_better": False, "ddp_find_unused_parameters": False, "fp16_backend": "amp", "eval_delay": 0},
    {"fast_dev_run": True, "save_steps": 7},
]


def told(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]


@pytest.mark.parametrize(("given", "named", "needed"), SHARED, ids=str)
def test_an_argument_that_counts_only_beside_others_is_told(trainer_factory, caplog, given, named, needed):
    tell_unused(trainer_factory.args_class("out", **{"save_strategy": "no", **given}))

    (message,) = told(caplog)
    assert message.startswith(named)
    assert f"has no effect: it counts only with {needed}" in message


@pytest.mark.parametrize("given", COUNT, ids=str)
def test_arguments_that_count_and_those_that_ask_for_what_is_are_not_told(trainer_factory, caplog, given):
    tell_unused(trainer_factory.args_class("out", **{"save_strategy": "no", **given}))

    assert not told(caplog)


def test_a_run_tells_it_when_it_begins(trainer_factory, caplog):
    trainer_factory(max_steps=1, save_steps=7).train()

    assert told(caplog) == ["save_steps=7 has no effect: it counts only with save_strategy='steps'"]


def test_a_search_tells_it_once(trainer_factory, caplog):
    pytest.importorskip("optuna")
    trainer = trainer_factory(
        model_init=lambda: trainer_factory.model(), eval_dataset=trainer_factory.dataset(8), max_steps=1, save_steps=7
    )

    trainer.hyperparameter_search(lambda trial: {"learning_rate": 1e-3}, n_trials=2, backend="optuna")

    assert len(told(caplog)) == 1


def test_adams_options_are_told_where_the_optimizer_has_none(trainer_factory, caplog):
    trainer_factory(max_steps=1, optim="sgd", adam_beta1=0.8, adam_epsilon=1e-6).train()
    trainer_factory(max_steps=1, adam_beta1=0.8).train()

    assert told(caplog) == ["adam_beta1=0.8 and adam_epsilon=1e-06 has no effect: optim='sgd' does not take it"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optim_args": "fused=maybe"}, "fused as true or false or None, not 'maybe'"),
        ({"optim_args": "amsgrad=yes"}, "amsgrad as true or false, not 'yes'"),
        ({"optim_args": {"weight_decay": True}}, "weight_decay as a number, not True"),
        ({"optim": "sgd", "optim_args": "momentum=high"}, "momentum as a number, not 'high'"),
    ],
    ids=str,
)
def test_an_option_of_the_optimizer_of_another_type_is_an_error(trainer_factory, given, message):
    if "fused" in str(given) and trainer_factory.framework == "tensorflow":
        pytest.skip("an option of torch")
    trainer = trainer_factory(max_steps=1, **given)

    with pytest.raises(ArgumentError, match="is not allowed") as raised:
        trainer.train()

    assert message in str(raised.value)


def test_whole_numbers_are_numbers(trainer_factory):
    trainer = trainer_factory(max_steps=1, optim="sgd", optim_args={"weight_decay": 1, "momentum": 0.5})

    assert trainer.train().global_step == 1


def test_what_a_given_optimizer_leaves_without_effect_is_told(trainer_factory, caplog):
    optimizer = own_optimizer(trainer_factory, 0.5)

    trainer_factory(**optimizer, max_steps=1, learning_rate=1e-3, optim_args="momentum=0.9").train()

    (message,) = told(caplog)
    assert message.startswith("optim_args={'momentum': 0.9} and learning_rate=0.001 has no effect: ")
    assert message.endswith("the trainer was given an optimizer, whose learning rate is 0.5")


def test_a_learning_rate_that_is_that_of_the_given_optimizer_is_not_told(trainer_factory, caplog):
    trainer = trainer_factory(**own_optimizer(trainer_factory, 1e-3), max_steps=1, learning_rate=1e-3)

    trainer.train()
    trainer.train()

    assert not told(caplog)


def test_what_a_class_of_optimizer_leaves_without_effect_is_told(tmp_path, caplog):
    optim = pytest.importorskip("torch").optim
    options: dict[str, Any] = {"max_steps": 1, "learning_rate": 0.25, "optim_args": "momentum=0.5"}
    for given in ({}, {"lr": 0.25, "momentum": 0.5}):
        plain = tiny_trainer("pytorch", tmp_path / str(len(given)), **options)
        parts = {name: getattr(plain, name) for name in ("train_dataset", "eval_dataset", "loss_fn")}
        type(plain)(plain.model, plain.args, optimizer_cls_and_kwargs=(optim.SGD, given), **parts).train()

    (message,) = told(caplog)
    assert message.startswith("optim_args={'momentum': 0.5} and learning_rate=0.25 has no effect")


def own_optimizer(factory: Any, rate: float) -> dict[str, Any]:
    """Return the model and the optimizers of a trainer."""
    model = factory.model()
    if factory.framework == "pytorch":
        return {"model": model, "optimizers": (factory.torch.optim.SGD(model.parameters(), lr=rate), None)}
    import keras

    return {"model": model, "optimizers": (keras.optimizers.SGD(rate), None)}
