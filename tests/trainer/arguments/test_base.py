"""BaseTrainingArguments: its fields, what is inferred from them, and how a command line reads them."""

from __future__ import annotations

import copy
import subprocess
import sys
import typing

import jsonargparse
import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments

# every field in the reference's order, with its default
FIELDS = {
    "output_dir": "trainer_output",
    "staging_dir": None,
    "overwrite_output_dir": False,
    "do_train": False,
    "do_eval": None,
    "do_predict": False,
    "eval_strategy": "no",
    "eval_steps": None,
    "prediction_loss_only": False,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "eval_accumulation_steps": None,
    "eval_delay": 0,
    "eval_on_train": False,
    "eval_on_start": False,
    "fast_dev_run": False,
    "overfit_batches": None,
    "limit_train_batches": None,
    "limit_eval_batches": None,
    "learning_rate": 5e-5,
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "optim": "adamw_torch",
    "optim_args": None,
    "optim_target_modules": None,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
    "warmup_steps": 0,
    "warmup_ratio": 0.0,
    "max_grad_norm": 1.0,
    "num_train_epochs": 3.0,
    "max_steps": -1,
    "label_smoothing_factor": 0.0,
    "logging_dir": None,
    "logging_strategy": "steps",
    "logging_steps": 500,
    "logging_first_step": False,
    "include_num_input_tokens_seen": "no",
    "logging_nan_inf_filter": False,
    "save_strategy": "steps",
    "save_steps": 500,
    "save_total_limit": None,
    "save_only_model": False,
    "save_on_each_node": False,
    "save_async": True,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
    "greater_is_better": None,
    "resume_from_checkpoint": None,
    "restore_callback_states_from_checkpoint": True,
    "on_stop_signal": "raise",
    "ignore_data_skip": False,
    "no_cuda": False,
    "seed": 42,
    "data_seed": None,
    "full_determinism": False,
    "fp16": False,
    "bf16": False,
    "fp16_backend": "auto",
    "fp16_opt_level": "O1",
    "fp16_full_eval": False,
    "bf16_full_eval": False,
    "tf32": None,
    "torch_compile": False,
    "torch_compile_backend": None,
    "torch_compile_mode": None,
    "gradient_checkpointing": False,
    "gradient_checkpointing_kwargs": None,
    "neftune_noise_alpha": None,
    "use_liger_kernel": False,
    "liger_kernel_config": None,
    "torch_empty_cache_steps": None,
    "auto_find_batch_size": False,
    "local_rank": -1,
    "ddp_backend": None,
    "ddp_timeout": 1800,
    "ddp_find_unused_parameters": None,
    "ddp_bucket_cap_mb": None,
    "ddp_broadcast_buffers": None,
    "ddp_static_graph": None,
    "fsdp": "",
    "fsdp_config": None,
    "tpu_num_cores": None,
    "debug": "",
    "dataloader_drop_last": False,
    "dataloader_num_workers": 0,
    "dataloader_multiprocessing_context": None,
    "dataloader_pin_memory": True,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
    "group_by_length": False,
    "train_sampling_strategy": "random",
    "length_column_name": "length",
    "remove_unused_columns": True,
    "label_names": None,
    "include_for_metrics": [],
    "batch_eval_metrics": False,
    "eval_do_concat_batches": True,
    "past_index": -1,
    "run_name": None,
    "disable_tqdm": None,
    "report_to": [],
    "callbacks": {},
    "log_level": "passive",
    "log_level_replica": "warning",
    "skip_memory_metrics": True,
    "parallel": None,
}


pytestmark = pytest.mark.usefixtures("no_launcher")


def test_the_fields_are_those_of_the_reference_in_its_order_with_its_defaults():
    found = BaseTrainingArguments().to_dict()

    assert found == FIELDS
    assert list(found) == list(FIELDS)


def test_every_field_and_every_alias_has_help():
    declared = BaseTrainingArguments.__dataclass_fields__.values()

    assert [item.name for item in declared if item.name != "_" and not item.metadata.get("help")] == []


def test_making_arguments_writes_nothing_and_imports_no_framework(tmp_path):
    code = (
        "import sys; from trackside.trainer.arguments.base import BaseTrainingArguments;"
        "BaseTrainingArguments(eval_strategy='epoch');"
        "print([name for name in ('torch', 'tensorflow', 'numpy', 'keras') if name in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_only_output_dir_may_be_given_by_position():
    assert BaseTrainingArguments("here").output_dir == "here"
    with pytest.raises(TypeError):
        BaseTrainingArguments("here", True)


def test_a_keyword_that_is_not_a_field_fails_with_the_nearest_name():
    with pytest.raises(
        ArgumentError, match=r"learning_rte=1 .* is not a field of BaseTrainingArguments. Did you mean 'learning_rate'"
    ):
        BaseTrainingArguments("here", learning_rte=1)
    with pytest.raises(ArgumentError, match=r"push_to_hub=True is not allowed: only its default; upload the folder"):
        BaseTrainingArguments("here", push_to_hub=True)


def test_a_field_of_transformers_is_read_at_its_default_and_cannot_be_set():
    args = BaseTrainingArguments()

    args.push_to_hub = False

    assert (args.push_to_hub, args.deepspeed, args.hub_strategy) == (False, None, "every_save")
    with pytest.raises(ArgumentError, match=r"deepspeed='zero.json' .* sharding from fsdp='full_shard'"):
        args.deepspeed = "zero.json"
    with pytest.raises(AttributeError, match="object has no attribute 'learning_rte'"):
        args.learning_rte  # noqa: B018
    args.note = "an attribute that is not a field"


# -- what is inferred -------------------------------------------------------------------------------------------------


def test_evaluation_is_on_when_there_is_a_strategy_for_it():
    assert BaseTrainingArguments(eval_strategy="epoch").do_eval is True
    assert not BaseTrainingArguments().do_eval
    assert BaseTrainingArguments(do_eval=True).do_eval is True


def test_eval_steps_are_logging_steps_when_not_given():
    assert BaseTrainingArguments(eval_strategy="steps", logging_steps=7).eval_steps == 7
    assert BaseTrainingArguments(eval_strategy="steps", eval_steps=3, logging_steps=7).eval_steps == 3


@pytest.mark.parametrize(
    ("values", "metric", "greater"),
    [
        ({"load_best_model_at_end": True}, "loss", False),
        ({"save_strategy": "best"}, "loss", False),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "loss", False),
        ({"metric_for_best_model": "eval_accuracy"}, "eval_accuracy", True),
        ({"metric_for_best_model": "eval_loss"}, "eval_loss", False),
        ({"metric_for_best_model": "perplexity", "greater_is_better": False}, "perplexity", False),
        ({}, None, None),
    ],
)
def test_the_metric_and_its_direction_are_inferred(values, metric, greater):
    args = BaseTrainingArguments(eval_strategy="epoch", **values)

    assert (args.metric_for_best_model, args.greater_is_better) == (metric, greater)


def test_a_backend_or_a_mode_of_torch_compile_turns_it_on():
    assert BaseTrainingArguments(torch_compile_mode="reduce-overhead").torch_compile


def test_the_logging_folder_is_known_when_it_is_read_and_stays():
    args = BaseTrainingArguments("out")

    assert args.logging_dir.startswith("out/runs/20")
    assert args.logging_dir == args.logging_dir == copy.deepcopy(args).logging_dir
    assert args.to_dict()["logging_dir"] is None
    assert args == BaseTrainingArguments("out")
    assert BaseTrainingArguments(logging_dir="logs").logging_dir == "logs"


# -- the command line -------------------------------------------------------------------------------------------------


def test_jsonargparse_reads_every_field_and_alias():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    names = parser.add_class_arguments(BaseTrainingArguments, None)
    line = "--evaluation_strategy steps --learning_rate 3e-4 --logging_steps 0.1 --report_to tensorboard --use_cpu true"

    parsed = parser.parse_args([*line.split(), "--optim_args", "a=1, b=2", "--callbacks", '{"csv": {}}'])
    args = BaseTrainingArguments(**vars(parsed))

    assert set(FIELDS) <= set(names)
    assert (args.eval_strategy, args.learning_rate, args.logging_steps) == ("steps", 3e-4, 0.1)
    assert (args.report_to, args.no_cuda, args.optim_args) == (["tensorboard"], True, {"a": 1, "b": 2})
    assert args.callbacks == {"csv": {}}


def test_jsonargparse_reads_back_the_dictionary_of_arguments():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BaseTrainingArguments, None)
    args = BaseTrainingArguments(eval_strategy="steps", callbacks={"csv": {}}, report_to=["csv"], logging_steps=0.25)

    parsed = parser.parse_object(args.to_dict())

    assert BaseTrainingArguments(**vars(parsed)) == args


def test_types_are_such_that_a_command_line_can_read_them():
    hints = typing.get_type_hints(BaseTrainingArguments)

    assert all(hints[name] is not typing.Any for name in FIELDS)


def test_a_tilde_in_output_dir_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    args = BaseTrainingArguments("~/runs")

    assert (args.output_dir, args.replace(output_dir="~/more").output_dir) == ("/home/ada/runs", "/home/ada/more")
