"""Values of arguments that are refused, and what the message says."""

from __future__ import annotations

import math

import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments

REFUSED = [
    ({"learning_rate": "abc"}, "learning_rate='abc' is not allowed: a finite number, at least 0"),
    ({"learning_rate": -1e-3}, "learning_rate=-0.001 is not allowed: a finite number, at least 0"),
    ({"learning_rate": math.nan}, "learning_rate=nan is not allowed: a finite number, at least 0"),
    ({"learning_rate": True}, "learning_rate=True is not allowed: a finite number, at least 0"),
    ({"weight_decay": math.inf}, "weight_decay=inf is not allowed: a finite number, at least 0"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0 is not allowed: a whole number, at least 1"),
    ({"per_device_eval_batch_size": 2.5}, "per_device_eval_batch_size=2.5 is not allowed: a whole number, at least 1"),
    ({"gradient_accumulation_steps": "two"}, "gradient_accumulation_steps='two' is not allowed: a whole number"),
    ({"max_grad_norm": -1}, "max_grad_norm=-1 is not allowed: a finite number, at least 0"),
    ({"warmup_ratio": 1.5}, "warmup_ratio=1.5 is not allowed: a finite number, from 0 to 1"),
    ({"warmup_steps": 2.5}, "warmup_steps=2.5 is not allowed: a finite number, at least 0, or a share of the run"),
    ({"adam_beta1": 1}, "adam_beta1=1 is not allowed: a finite number, from 0 to less than 1"),
    ({"num_train_epochs": 0}, "num_train_epochs=0 is not allowed: a finite number, above 0"),
    ({"max_steps": 0}, "max_steps=0 is not allowed: a whole number, at least 1, or -1 for none"),
    ({"logging_steps": 0}, "logging_steps=0 is not allowed: a finite number, at least 1, or a share of max_steps"),
    ({"eval_steps": 1.5}, "eval_steps=1.5 is not allowed"),
    ({"save_steps": -0.1}, "save_steps=-0.1 is not allowed"),
    ({"save_total_limit": 0}, "save_total_limit=0 is not allowed: a whole number, at least 1, or None"),
    ({"seed": -1}, "seed=-1 is not allowed: a whole number, from 0 to 4294967295"),
    ({"seed": None}, "seed=None is not allowed: a whole number, from 0 to 4294967295"),
    ({"eval_strategy": "step"}, "one of no, steps, epoch. Did you mean 'steps'?"),
    ({"eval_strategy": 3}, "eval_strategy=3 is not allowed: one of no, steps, epoch"),
    ({"eval_strategy": "best"}, "eval_strategy='best' is not allowed: one of no, steps, epoch"),
    ({"lr_scheduler_type": "cosin"}, "Did you mean 'cosine'?"),
    ({"optim": "adamw_torh"}, "Did you mean 'adamw_torch'?"),
    ({"fp16_opt_level": "O4"}, "one of O0, O1, O2, O3"),
    ({"log_level": "warn"}, "Did you mean 'warning'?"),
    ({"parallel": "ddp"}, "parallel='ddp' is not allowed: one of dp. Did you mean 'dp'?"),
    ({"fsdp": "fullshard offload"}, "Did you mean 'full_shard'?"),
    ({"include_for_metrics": ["input"]}, "any of inputs, loss. Did you mean 'inputs'?"),
    ({"output_dir": ""}, "output_dir='' is not allowed: a text, not empty"),
    ({"output_dir": None}, "output_dir=None is not allowed: a text, not empty"),
    ({"fp16": "yes"}, "fp16='yes' is not allowed: true or false"),
    ({"do_train": 1}, "do_train=1 is not allowed: true or false"),
    ({"label_names": [1]}, "label_names=[1] is not allowed: a list (each item: a text) or None"),
    ({"callbacks": ["progress"]}, "callbacks=['progress'] is not allowed: a map"),
    ({"optim_args": "beta 0.9"}, "(not of the form a=1, b=2)"),
    ({"lr_scheduler_kwargs": "[1]"}, "(not a JSON object)"),
    ({"fsdp": "full_shard", "fsdp_config": "nowhere.json"}, "(the file does not exist)"),
    ({"fp16": True, "bf16": True}, "fp16=True is not allowed: fp16 or bf16, not both"),
    ({"fp16_full_eval": True, "bf16_full_eval": True}, "fp16_full_eval or bf16_full_eval, not both"),
    ({"load_best_model_at_end": True}, "load_best_model_at_end=True is not allowed: only with eval_strategy="),
    (
        {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "no"},
        "and with save_strategy='best'",
    ),
    ({"save_strategy": "best"}, "'best' only with eval_strategy="),
    ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "only with eval_strategy='steps' or 'epoch', whose metric"),
    ({"dataloader_persistent_workers": True}, "only with dataloader_num_workers of at least 1"),
    ({"dataloader_prefetch_factor": 2}, "only with dataloader_num_workers of at least 1"),
    ({"group_by_length": True, "length_column_name": ""}, "length_column_name='' is not allowed"),
    ({"fsdp": "offload"}, "'offload' only together with 'full_shard' or 'shard_grad_op'"),
    ({"fsdp_config": {"a": 1}}, "fsdp_config={'a': 1} is not allowed: only with fsdp="),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_value_that_is_not_allowed_fails_and_the_message_has_field_value_and_what_is(values, message):
    with pytest.raises(ArgumentError) as caught:
        BaseTrainingArguments(**values)

    assert message in str(caught.value)
    assert caught.value.field in values


def test_a_field_that_was_changed_to_something_wrong_is_found_by_validate():
    args = BaseTrainingArguments()
    args.learning_rate = "much"

    with pytest.raises(ArgumentError, match="learning_rate='much'"):
        args.validate()
