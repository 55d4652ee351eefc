"""Each argument that is changed when a run is resumed is told once, and the run goes on to its end."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import pytest

from trackside import TFTrainingArguments, TrainingArguments
from trackside.trainer.arguments.serialization import NOT_COMPARED

BASE = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "logging_steps": 2,
    "logging_strategy": "steps",
    "save_total_limit": 5,
}

SECOND = {
    "do_train": True,
    "do_predict": True,
    "eval_strategy": "epoch",
    "eval_steps": 1,
    "prediction_loss_only": True,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "eval_accumulation_steps": 1,
    "eval_delay": 3,
    "eval_on_train": True,
    "eval_on_start": True,
    "overfit_batches": 3,
    "limit_train_batches": 2,
    "limit_eval_batches": 1,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "adam_beta1": 0.5,
    "adam_beta2": 0.9,
    "adam_epsilon": 1e-4,
    "optim": "sgd",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "warmup_ratio": 0.9,
    "max_grad_norm": 0.1,
    "num_train_epochs": 5.0,
    "max_steps": 3,
    "label_smoothing_factor": 0.1,
    "logging_strategy": "epoch",
    "logging_steps": 1,
    "logging_first_step": True,
    "logging_nan_inf_filter": True,
    "include_num_input_tokens_seen": "all",
    "torch_empty_cache_steps": 2,
    "train_sampling_strategy": "sequential",
    "ddp_static_graph": True,
    "save_strategy": "epoch",
    "save_steps": 1,
    "save_total_limit": 7,
    "save_only_model": True,
    "save_on_each_node": True,
    "save_async": False,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "restore_callback_states_from_checkpoint": False,
    "ignore_data_skip": True,
    "no_cuda": True,
    "seed": 7,
    "data_seed": 7,
    "fp16": True,
    "bf16": True,
    "fp16_opt_level": "O2",
    "fp16_full_eval": True,
    "bf16_full_eval": True,
    "tf32": False,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "auto_find_batch_size": True,
    "ddp_backend": "gloo",
    "ddp_timeout": 60,
    "ddp_find_unused_parameters": True,
    "ddp_bucket_cap_mb": 10,
    "ddp_broadcast_buffers": False,
    "debug": "underflow_overflow",
    "dataloader_drop_last": True,
    "dataloader_num_workers": 1,
    "dataloader_pin_memory": False,
    "length_column_name": "size",
    "remove_unused_columns": False,
    "label_names": ["labels"],
    "include_for_metrics": ["loss"],
    "batch_eval_metrics": True,
    "eval_do_concat_batches": False,
    "run_name": "second",
    "disable_tqdm": False,
    "log_level": "error",
    "log_level_replica": "error",
    "skip_memory_metrics": False,
    "global_batch_size": 4,
    "poly_power": 2.0,
    "xla": True,
    "steps_per_execution": 2,
    "shuffle_buffer_mib": 1,
    "full_determinism": True,
    "on_stop_signal": "return",
    "report_to": ["jsonl"],
}
"""A second value of each argument."""

SKIPPED = {
    "fast_dev_run": "resumes what it has begun itself",
    "do_eval": "follows from eval_strategy",
    "past_index": "needs a model with a memory",
    "callbacks": "the state of callbacks has tests of its own",
    "output_dir": "the checkpoint may come from any folder",
    "optim_args": "depends on optim; tests of the optimizers change them",
    "optim_target_modules": "needs an optimizer of another package",
    "lr_scheduler_kwargs": "depends on lr_scheduler_type; tests of the schedules change them",
    "fp16_backend": "apex is not installed",
    "torch_compile": "takes minutes",
    "torch_compile_backend": "takes minutes",
    "torch_compile_mode": "takes minutes",
    "gradient_checkpointing": "needs a model with it",
    "fsdp": "needs several processes",
    "fsdp_config": "needs fsdp",
    "tpu_num_cores": "needs torch_xla",
    "tpu_name": "needs a TPU",
    "neftune_noise_alpha": "needs embeddings",
    "use_liger_kernel": "needs a GPU",
    "liger_kernel_config": "needs use_liger_kernel",
    "dataloader_multiprocessing_context": "needs workers",
    "dataloader_persistent_workers": "needs workers",
    "dataloader_prefetch_factor": "needs workers",
    "group_by_length": "needs examples with a length",
    "parallel": "needs GPUs",
}
"""Arguments without a second value here, and why."""

FOLLOWING = {
    "eval_strategy": {"eval_steps"},
    "logging_steps": {"eval_steps"},
    "global_batch_size": {"gradient_accumulation_steps"},
    "load_best_model_at_end": {"metric_for_best_model", "greater_is_better"},
    "metric_for_best_model": {"greater_is_better"},
}
"""Arguments that follow from others."""


def changeable(args_class):
    return [
        item.name
        for item in dataclasses.fields(args_class)
        if item.init and item.repr and item.name not in NOT_COMPARED and item.name not in SKIPPED
    ]


def test_each_argument_has_a_second_value_or_a_reason():
    names = {name for each in (TrainingArguments, TFTrainingArguments) for name in changeable(each)}

    assert names - set(SECOND) == set()
    assert set(SKIPPED) & set(SECOND) == set()


NOT_HERE = {
    "pytorch": {"label_smoothing_factor"},
    "tensorflow": {"label_smoothing_factor", "debug", "label_names", "gradient_checkpointing_kwargs"},
}
"""Arguments that these trainers refuse."""


def count(caplog, name):
    return sum(f"resuming with {name}=" in record.getMessage() for record in caplog.records)


@pytest.fixture
def determinism_restored(trainer_factory):
    """Let the tests that follow in this process have the kernels that they expect: full_determinism stays."""
    yield
    if trainer_factory.framework == "pytorch":
        import torch

        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
    else:
        import tensorflow as tf
        from tensorflow.python.framework.config import disable_op_determinism

        disable_op_determinism()
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("determinism_restored")
def test_each_argument_that_changed_is_told_once_and_the_run_ends(trainer_factory, caplog):
    options = {**BASE, "eval_dataset": trainer_factory.dataset(8, seed=1)}
    trainer_factory(**options).train()
    start = trainer_factory.folder / "start"
    shutil.copytree(trainer_factory.folder / "out" / "checkpoint-2", start / "checkpoint-2")

    def faults_of(*names):
        """Resume with other values of these arguments; return what is wrong, or None."""
        caplog.clear()
        logging.getLogger("trackside").setLevel(logging.NOTSET)  # after log_level
        changed, heard = {name: SECOND[name] for name in names}, []
        try:
            trainer = trainer_factory(
                **{**options, **changed, "output_dir": str(trainer_factory.folder / "-".join(names))}
            )
            trainer.on("on_load")(lambda sender, differences, **rest: heard.append(differences))
            trainer.train(start / "checkpoint-2")
        except Exception as error:
            return repr(error)
        told = set(heard[0]) - {"output_dir"}
        following = {also for name in names for also in FOLLOWING.get(name, set())}
        times = {name: count(caplog, name) for name in names if name != "log_level"}
        if told - following != set(names) or set(times.values()) - {1}:
            return told, times
        return None if trainer.state.global_step == trainer.args.max_steps else trainer.state.global_step

    names = [name for name in changeable(trainer_factory.args_class) if name not in NOT_HERE[trainer_factory.framework]]
    faults = {}
    apart = len(names) // 4  # neighbours, which may depend on each other, are in different groups
    for some in (names[first::apart] for first in range(apart)):
        if faults_of(*some) is not None:  # some cannot be changed at once
            faults |= {name: fault for name in some if (fault := faults_of(name)) is not None}

    assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())
