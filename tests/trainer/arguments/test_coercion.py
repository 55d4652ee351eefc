"""Values of arguments that are brought to the type of their field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.arguments.enums import IntervalStrategy


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("learning_rate", "3e-4", 3e-4),
        ("learning_rate", np.float32(0.5), 0.5),
        ("num_train_epochs", 2, 2.0),
        ("max_steps", "1e4", 10_000),
        ("max_steps", np.int64(7), 7),
        ("per_device_train_batch_size", 16.0, 16),
        ("logging_steps", 10, 10),
        ("logging_steps", "0.1", 0.1),
        ("fp16", np.bool_(True), True),
        ("fp16", "true", True),
        ("output_dir", Path("a/b"), "a/b"),
        ("eval_strategy", IntervalStrategy.EPOCH, "epoch"),
        ("report_to", "tensorboard, wandb", ["tensorboard", "wandb"]),
        ("report_to", "none", []),
        ("report_to", None, []),
        ("report_to", "all", ["all"]),
        ("report_to", ("csv",), ["csv"]),
        (
            "optim_args",
            "betas=(0.9, 0.95), eps=1e-6, foreach=true",
            {"betas": [0.9, 0.95], "eps": 1e-6, "foreach": True},
        ),
        ("optim_args", {"momentum": 0.9}, {"momentum": 0.9}),
        ("lr_scheduler_kwargs", '{"num_cycles": 2}', {"num_cycles": 2}),
        ("gradient_checkpointing_kwargs", '{"use_reentrant": false}', {"use_reentrant": False}),
        ("fsdp", ["full_shard", "offload"], ["full_shard", "offload"]),
        ("fsdp", "full_shard,  offload", "full_shard offload"),
        ("resume_from_checkpoint", "true", True),
        ("resume_from_checkpoint", "runs/checkpoint-3", "runs/checkpoint-3"),
    ],
)
def test_a_value_that_spells_one_of_the_type_becomes_it(field, value, expected):
    found = BaseTrainingArguments(**{field: value}).to_dict()[field]

    assert found == expected
    assert type(found) is type(expected)


def test_fsdp_config_may_be_a_file(tmp_path):
    path = tmp_path / "fsdp.json"
    path.write_text('{"min_num_params": 100}')

    assert BaseTrainingArguments(fsdp="full_shard", fsdp_config=path).fsdp_config == {"min_num_params": 100}
