"""Validation of combinations of TrainingArguments, and of fields that a framework does not support."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trackside.callbacks.errors import ArgumentError, UnsupportedError

Refusals = Mapping[str, tuple[Callable[[Any], bool], str]]
"""By field name: the test for a forbidden value, and the allowed values or the alternative."""

NEEDS_WORKERS = "only with dataloader_num_workers of at least 1"

COMBINATIONS: Refusals = {
    "fp16": (lambda args: args.fp16 and args.bf16, "fp16 or bf16, not both"),
    "fp16_full_eval": (
        lambda args: args.fp16_full_eval and args.bf16_full_eval,
        "fp16_full_eval or bf16_full_eval, not both",
    ),
    "load_best_model_at_end": (
        lambda args: args.load_best_model_at_end and "no" in (args.eval_strategy, args.save_strategy),
        "only with eval_strategy='steps' or 'epoch', since without evaluation no model is best, and with save_strategy="
        "'best', 'steps' or 'epoch', since the best model comes from its checkpoint",
    ),
    "save_strategy": (
        lambda args: args.save_strategy == "best" and args.eval_strategy == "no",
        "'best' only with eval_strategy='steps' or 'epoch', since without evaluation no model is best",
    ),
    "lr_scheduler_type": (
        lambda args: args.lr_scheduler_type == "reduce_lr_on_plateau" and args.eval_strategy == "no",
        "'reduce_lr_on_plateau' only with eval_strategy='steps' or 'epoch', whose metric it follows",
    ),
    "dataloader_persistent_workers": (
        lambda args: args.dataloader_persistent_workers and args.dataloader_num_workers == 0,
        NEEDS_WORKERS,
    ),
    "dataloader_prefetch_factor": (
        lambda args: args.dataloader_prefetch_factor is not None and args.dataloader_num_workers == 0,
        NEEDS_WORKERS,
    ),
    "overfit_batches": (
        lambda args: args.overfit_batches is not None and args.limit_train_batches is not None,
        "overfit_batches or limit_train_batches, not both",
    ),
    "fsdp": (
        lambda args: "offload" in str(args.fsdp) and "shard" not in str(args.fsdp),
        "'offload' only together with 'full_shard' or 'shard_grad_op'",
    ),
    "fsdp_config": (
        lambda args: bool(args.fsdp_config) and not args.fsdp,
        "only with fsdp='full_shard' or 'shard_grad_op'",
    ),
}


def check_combinations(args: Any) -> None:
    """Raise for the first of `COMBINATIONS` that holds for ``args``.

    Raises:
        ArgumentError: If one holds.
    """
    for name, (is_wrong, allowed) in COMBINATIONS.items():
        if is_wrong(args):
            raise ArgumentError(name, getattr(args, name), allowed)


def refuse(args: Any, table: Refusals) -> None:
    """Raise for the first field of ``table`` that is used.

    Raises:
        UnsupportedError: If one is used; the message has the reason and the alternative.
    """
    for name, (is_used, why) in table.items():
        value = getattr(args, name)
        if is_used(value):
            raise UnsupportedError(f"{name}={value!r} cannot be used: {why}")
