"""The rules that several fields of TrainingArguments must keep together, and what cannot be had everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trackside.callbacks.errors import ArgumentError, UnsupportedError

Refusals = Mapping[str, tuple[Callable[[Any], bool], str]]

# what must not be, the field to name, and what is allowed
COMBINATIONS: tuple[tuple[Callable[[Any], bool], str, str], ...] = (
    (lambda args: args.fp16 and args.bf16, "fp16", "fp16 or bf16, not both"),
    (
        lambda args: args.fp16_full_eval and args.bf16_full_eval,
        "fp16_full_eval",
        "fp16_full_eval or bf16_full_eval, not both",
    ),
    (
        lambda args: args.load_best_model_at_end and args.eval_strategy == "no",
        "load_best_model_at_end",
        "only with eval_strategy='steps' or 'epoch', since without evaluation no model is best",
    ),
    (
        lambda args: args.save_strategy == "best" and args.eval_strategy == "no",
        "save_strategy",
        "'best' only with eval_strategy='steps' or 'epoch', since without evaluation no model is best",
    ),
    (
        lambda args: args.lr_scheduler_type == "reduce_lr_on_plateau" and args.eval_strategy == "no",
        "lr_scheduler_type",
        "'reduce_lr_on_plateau' only with eval_strategy='steps' or 'epoch', whose metric it follows",
    ),
    (
        lambda args: args.dataloader_persistent_workers and args.dataloader_num_workers == 0,
        "dataloader_persistent_workers",
        "only with dataloader_num_workers of at least 1",
    ),
    (
        lambda args: args.dataloader_prefetch_factor is not None and args.dataloader_num_workers == 0,
        "dataloader_prefetch_factor",
        "only with dataloader_num_workers of at least 1",
    ),
    (
        lambda args: "offload" in str(args.fsdp) and "shard" not in str(args.fsdp),
        "fsdp",
        "'offload' only together with 'full_shard' or 'shard_grad_op'",
    ),
    (
        lambda args: bool(args.fsdp_config) and not args.fsdp,
        "fsdp_config",
        "only with fsdp='full_shard' or 'shard_grad_op'",
    ),
)


def check_combinations(args: Any) -> None:
    """Raise for the first of `COMBINATIONS` that ``args`` has.

    Raises:
        ArgumentError: If there is one.
    """
    for is_wrong, name, allowed in COMBINATIONS:
        if is_wrong(args):
            raise ArgumentError(name, getattr(args, name), allowed)


def refuse(args: Any, table: Refusals) -> None:
    """Raise for the first field of ``table`` that is used.

    Raises:
        UnsupportedError: If there is one; the message says why, and what to do instead.
    """
    for name, (is_used, why) in table.items():
        value = getattr(args, name)
        if is_used(value):
            raise UnsupportedError(f"{name}={value!r} cannot be used: {why}")
