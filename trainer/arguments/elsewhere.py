"""Names that other training tools have for arguments, each with what to use here."""

from __future__ import annotations

from collections.abc import Collection

from trackside.callbacks.errors import did_you_mean

FIELDS_ELSEWHERE = {
    "accumulate_grad_batches": "gradient_accumulation_steps",
    "accumulation_steps": "gradient_accumulation_steps",
    "batch_size": "per_device_train_batch_size",
    "checkpoint_dir": "output_dir",
    "ckpt_path": "resume_from_checkpoint",
    "clip_grad_norm": "max_grad_norm",
    "default_root_dir": "output_dir",
    "epochs": "num_train_epochs",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_clip": "max_grad_norm",
    "gradient_clip_norm": "max_grad_norm",
    "gradient_clip_val": "max_grad_norm",
    "initial_epoch": "resume_from_checkpoint",
    "limit_val_batches": "limit_eval_batches",
    "max_eval_batches": "limit_eval_batches",
    "learning_rate_scheduler": "lr_scheduler_type",
    "log_dir": "logging_dir",
    "log_every_n_steps": "logging_steps",
    "log_interval": "logging_steps",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "max_epochs": "num_train_epochs",
    "n_epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "num_workers": "dataloader_num_workers",
    "optimizer": "optim",
    "pin_memory": "dataloader_pin_memory",
    "random_seed": "seed",
    "resume": "resume_from_checkpoint",
    "save_dir": "output_dir",
    "save_freq": "save_steps",
    "save_top_k": "save_total_limit",
    "scheduler": "lr_scheduler_type",
    "train_batch_size": "per_device_train_batch_size",
    "val_batch_size": "per_device_eval_batch_size",
    "val_check_interval": "eval_steps",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
    "workers": "dataloader_num_workers",
}
"""Names for a field."""

ADVICE_ELSEWHERE = {
    "accelerator": "the device is chosen by itself; use_cpu=True keeps to the CPU",
    "amp": "use bf16=True or fp16=True",
    "check_val_every_n_epoch": "use eval_strategy='epoch', or eval_strategy='steps' and eval_steps",
    "class_weight": "give the weights to loss_fn, or class_weight to TFTrainer",
    "config": "give a configuration file by its name alone: trackside train run.yaml",
    "detect_anomaly": "use debug='underflow_overflow', or torch.autograd.set_detect_anomaly(True)",
    "deterministic": "use full_determinism=True",
    "device": "the device is chosen by itself; use_cpu=True keeps to the CPU",
    "devices": "start the script with torchrun --nproc-per-node",
    "enable_checkpointing": "use save_strategy='no' for no checkpoints",
    "enable_progress_bar": "use disable_tqdm=True for no progress bar",
    "gpus": "start the script with torchrun --nproc-per-node",
    "mixed_precision": "use bf16=True or fp16=True",
    "num_nodes": "start the script with torchrun --nnodes",
    "patience": "use the callback early_stopping: callbacks={'early_stopping': {'patience': 3}}",
    "precision": "use bf16=True or fp16=True",
    "strategy": "DDP comes with torchrun; fsdp='full_shard' shards",
    "verbose": "use disable_tqdm=True for no progress bar, and log_level for messages",
}
"""Names without a field, with the alternative."""

OWN_CLASS = "give optimizer_cls_and_kwargs=({}, {{...}}) to the trainer, and the groups of parameters if it needs any"
IN_BACKWARD = "it updates within the backward pass, and works with no clipping and no accumulation; use {!r}"
OPTIMIZERS_ELSEWHERE = {
    "adalomo": IN_BACKWARD.format("adafactor"),
    "adamw_anyprecision": OWN_CLASS.format("AnyPrecisionAdamW"),
    "adamw_apex": "use 'adamw_apex_fused'",
    "adamw_hf": "transformers no longer has it; use 'adamw_torch'",
    "adamw_torch_npu_fused": OWN_CLASS.format("NpuFusedAdamW"),
    "adamw_torch_xla": "use 'adamw_torch', which torch_xla records like any other operation",
    "apollo_adamw_layerwise": IN_BACKWARD.format("apollo_adamw"),
    "galore_adafactor_layerwise": IN_BACKWARD.format("galore_adafactor"),
    "galore_adamw_8bit_layerwise": IN_BACKWARD.format("galore_adamw_8bit"),
    "galore_adamw_layerwise": IN_BACKWARD.format("galore_adamw"),
    "lomo": IN_BACKWARD.format("adafactor"),
    "muon": OWN_CLASS.format("torch.optim.Muon"),
}
"""Optimizers without a name here, with the alternative."""


def nearest_name(name: str, known: Collection[str]) -> str:
    """Return what to use instead of ``name``, as the end of a sentence about an unknown argument.

    Args:
        known: The names of the fields.

    Example:
        >>> nearest_name("max_epochs", ["num_train_epochs", "max_steps"])
        " Did you mean 'num_train_epochs'?"
        >>> nearest_name("gpus", ["seed"])
        ' Instead, start the script with torchrun --nproc-per-node.'
    """
    name = name.replace("-", "_")
    if FIELDS_ELSEWHERE.get(name) in known:
        return f" Did you mean {FIELDS_ELSEWHERE[name]!r}?"
    return f" Instead, {ADVICE_ELSEWHERE[name]}." if name in ADVICE_ELSEWHERE else did_you_mean(name, known)
