"""Validation of combinations of TrainingArguments, and of fields that a framework does not support."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from trackside.callbacks.errors import ArgumentError, UnsupportedError

from ..staging import StagingFolder

logger: logging.Logger = logging.getLogger("trackside.trainer")

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
    "eval_on_train": (
        lambda args: args.eval_on_train and args.eval_strategy == "no",
        "only with eval_strategy='steps' or 'epoch'",
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


Needs = dict[str, tuple[Callable[[Any], bool], str]]
"""By field name: whether a value that is given counts beside the other arguments, and what it needs in order to."""

EVALUATES = "eval_strategy='steps' or 'epoch'"

NEEDS: Needs = {
    "staging_dir": (lambda args: isinstance(args.output_dir, StagingFolder), "an output_dir that is an address"),
    "eval_steps": (lambda args: args.eval_strategy == "steps", "eval_strategy='steps'"),
    "eval_delay": (lambda args: args.eval_strategy != "no", EVALUATES),
    "logging_steps": (
        lambda args: args.logging_strategy == "steps" or _is_inferred(args, "eval_steps"),
        "logging_strategy='steps'",
    ),
    "save_steps": (lambda args: args.save_strategy == "steps", "save_strategy='steps'"),
    "greater_is_better": (
        lambda args: args.metric_for_best_model is not None,
        "metric_for_best_model or load_best_model_at_end",
    ),
}
"""Fields of both frameworks that count only beside others; `BaseTrainingArguments.counted_only_with` has them."""


def tell_unused(args: Any) -> None:
    """Warn of the arguments that were given and have no effect beside the others, on the first process.

    Those whose value is the default are not told, nor any of a development run, which has arguments of its own.
    """
    if args.fast_dev_run or not args.should_log:
        return
    unused: dict[str, list[str]] = {}
    for item in args.fields():
        counts, needed = args.counted_only_with.get(item.name, (None, ""))
        if counts is None or _is_inferred(args, item.name) or counts(args):
            continue
        if args.given(item.name) and not args.is_default(item.name):
            unused.setdefault(needed, []).append(f"{item.name}={args.written(item.name)!r}")
    for needed, given in unused.items():
        logger.warning("%s has no effect: it counts only with %s", " and ".join(given), needed)


def _is_inferred(args: Any, name: str) -> bool:
    return name in vars(args)["_inferred"]


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
