"""Creation of optimizers and learning-rate schedulers, which are torch's own classes, from the arguments."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from trackside.callbacks.errors import TracksideTypeError, TracksideValueError, UnsupportedError
from trackside.trainer.optim.choice import (
    check_class_and_options,
    check_made,
    choose_optimizer,
    plateau_options,
    values_of,
)
from trackside.trainer.optim.given import tell_replaced
from trackside.trainer.optim.lr_schedules import schedule_of

from .._compat import NORM_BASES
from ..availability import apex_needed
from .lion import Lion
from .low_rank import is_low_rank, with_plain_projectors, with_targets
from .packaged import PACKAGED, adam_options, class_and_options

NORM_LAYERS = (*NORM_BASES, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers whose weights are not decayed."""

OptimizerClass = Callable[..., Optimizer]


def create_optimizer(
    model: nn.Module,
    args: Any,
    optimizer_cls_and_kwargs: tuple[OptimizerClass, Mapping[str, Any]] | None = None,
    decayed: Collection[str] | None = None,
) -> Optimizer:
    """Return the optimizer that ``args.optim`` names, over the trainable parameters of ``model``.

    Args:
        args: Read for optim, optim_args, learning_rate, weight_decay, adam_beta1, adam_beta2 and adam_epsilon.
        optimizer_cls_and_kwargs: A class and its options, used instead of ``args.optim``. A weight decay among the
            options replaces ``args.weight_decay``; biases and norm weights are not decayed either way. Groups of
            parameters that are among the options, as ``params``, are used as they are.
        decayed: Names of the parameters that are decayed, if not those of `decay_parameter_names`.

    Raises:
        ArgumentError: If the optimizer or an option is unknown; the message suggests the nearest name.
        TracksideValueError: If no parameter is trainable.
    """
    if optimizer_cls_and_kwargs is not None:
        check_class_and_options(optimizer_cls_and_kwargs)  # of an override
    optimizer_cls, given = optimizer_cls_and_kwargs or class_by_name(args)
    options = dict(given)
    groups = options.pop("params", None)
    if optimizer_cls_and_kwargs is None and any(map(torch.is_complex, model.parameters())):
        options.pop("fused", None)  # torch has no such kernel for complex numbers
    if groups is None:
        groups = parameter_groups(model, options.get("weight_decay", args.weight_decay), decayed)
        if is_low_rank(optimizer_cls, args):
            groups = with_targets(groups, model, args)
    from_args = (
        args.optim_args if all(options.get(name) == args.optim_args[name] for name in args.optim_args or ()) else None
    )
    with values_of(
        "optim_args" if from_args else "optimizer_cls_and_kwargs", from_args or options, optimizer_cls.__name__
    ):
        optimizer = with_plain_projectors(optimizer_cls(groups, **options))
    if optimizer_cls_and_kwargs is not None:
        tell_replaced(args, optimizer, has_options=from_args is not None)
    return optimizer


def check_choice(args: Any) -> None:
    """Check the optimizer, and a plateau schedule, that ``args`` name, without a model.

    Raises:
        ArgumentError: As in training; of optimizers of other packages, only the names of options are checked.
    """
    optimizer_cls, _ = class_by_name(args)
    is_packaged = not optimizer_cls.__module__.startswith(("torch.", "trackside."))
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters()) if is_packaged else create_optimizer(model, args)
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        create_scheduler(optimizer, args, 1)


def class_by_name(args: Any) -> tuple[OptimizerClass, dict[str, Any]]:
    """Return the class that ``args.optim`` names, and its options."""
    name = str(args.optim)
    of_targets = PACKAGED[name].of_targets if name in PACKAGED else ()
    return choose_optimizer(args, OPTIMIZERS, of_targets, lr=args.learning_rate)


def parameter_groups(
    model: nn.Module, weight_decay: float, names: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """Return two groups of trainable parameters: decayed parameters, and biases and norm weights.

    There are always two groups, so that the state of an optimizer fits any weight decay. A tied weight appears once.

    Raises:
        TracksideValueError: If no parameter is trainable.
    """
    decayed = set(decay_parameter_names(model) if names is None else names)
    trainable = [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    if not trainable:
        raise TracksideValueError(f"{type(model).__name__} has no trainable parameter: none has requires_grad=True")
    return [
        {"params": [param for name, param in trainable if name in decayed], "weight_decay": weight_decay},
        {"params": [param for name, param in trainable if name not in decayed], "weight_decay": 0.0},
    ]


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that weight decay applies to: all but biases and the weights of norms.

    A norm is one of torch's norm layers, or a module whose class name contains "norm"; only its direct
    parameters are exempt, so the linear layers of a block named PreNormBlock are decayed. Embeddings are decayed.
    """
    exempt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, NORM_LAYERS) or "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    return [name for name, _ in model.named_parameters() if name not in exempt and not _is_bias(name)]


def _is_bias(name: str) -> bool:
    """Return whether ``name`` is a bias, such as in_proj_bias, bias_ih_l0, or in a module relative_attention_bias."""
    *path, own_name = name.lower().split(".")
    return "bias" in own_name or any(re.search(r"(^|_)bias$", part) for part in path)


# -- optimizers by name -----------------------------------------------------------------------------------------------


def _lamb_options(args: Any) -> dict[str, Any]:
    # LAMB's own clipping is turned off, and its epsilon, larger than Adam's, is kept
    return {"betas": (args.adam_beta1, args.adam_beta2), "max_grad_norm": float("inf")}


def _apex_fused(class_name: str, args: Any, options: dict[str, Any]) -> tuple[OptimizerClass, dict[str, Any]]:
    """Return a fused optimizer of apex, whose update is a few kernels; it needs a GPU."""
    optimizer_cls = getattr(importlib.import_module("apex.optimizers"), class_name, None)
    if optimizer_cls is None:
        needed = apex_needed(args.optim, f"this build of NVIDIA apex has no {class_name}")
        raise UnsupportedError(f"optim={args.optim!s}: {needed}")
    return optimizer_cls, options


OPTIMIZERS: dict[str, Callable[[Any], tuple[OptimizerClass, dict[str, Any]]]] = {
    "adamw_torch": lambda args: (torch.optim.AdamW, adam_options(args)),
    "adamw_torch_fused": lambda args: (torch.optim.AdamW, {**adam_options(args), "fused": True}),
    "sgd": lambda args: (torch.optim.SGD, {}),
    "adafactor": lambda args: (torch.optim.Adafactor, {}),
    "adagrad": lambda args: (torch.optim.Adagrad, {}),
    "rmsprop": lambda args: (torch.optim.RMSprop, {}),
    "nadam": lambda args: (torch.optim.NAdam, {**adam_options(args), "decoupled_weight_decay": True}),
    "radam": lambda args: (torch.optim.RAdam, {**adam_options(args), "decoupled_weight_decay": True}),
    "lion": lambda args: (Lion, {}),
    "adamw_apex_fused": lambda args: _apex_fused("FusedAdam", args, adam_options(args)),
    "lamb_apex_fused": lambda args: _apex_fused("FusedLAMB", args, _lamb_options(args)),
    "novograd_apex_fused": lambda args: _apex_fused("FusedNovoGrad", args, adam_options(args)),
    "sgd_apex_fused": lambda args: _apex_fused("FusedSGD", args, {}),
    "adagrad_apex_fused": lambda args: _apex_fused("FusedAdagrad", args, {}),
    **{name: partial(class_and_options, name) for name in PACKAGED},
}
"""Optimizers by the value of ``args.optim``. Lion keeps its own betas, since AdamW's do not suit it."""


# -- schedulers by name -----------------------------------------------------------------------------------------------


def create_scheduler(optimizer: Optimizer, args: Any, num_training_steps: int) -> LRScheduler:
    """Return the scheduler that ``args.lr_scheduler_type`` names, to be stepped once an update.

    A ReduceLROnPlateau is stepped once an evaluation instead, with the metric; its mode follows
    ``args.greater_is_better`` unless lr_scheduler_kwargs has a ``mode``.

    Args:
        args: Read for lr_scheduler_type, lr_scheduler_kwargs, warmup_steps, warmup_ratio and greater_is_better.

    Raises:
        ArgumentError: If the scheduler or an option is unknown; the message suggests the nearest name.
        TracksideTypeError: If the optimizer is not of torch's class, which its schedulers need.
    """
    check_made(optimizer)
    if not isinstance(optimizer, Optimizer):
        raise TracksideTypeError(
            f"{type(optimizer).__name__} is not a torch.optim.Optimizer, for which lr_scheduler_type makes a schedule: "
            "derive it from that class, or give optimizers=(optimizer, schedule)"
        )
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        options = plateau_options(args, ReduceLROnPlateau)
        with values_of("lr_scheduler_kwargs", args.lr_scheduler_kwargs, "ReduceLROnPlateau"):
            return ReduceLROnPlateau(optimizer, **options)
    learning_rate: Any = optimizer.defaults.get("lr", optimizer.param_groups[0].get("lr"))
    return LambdaLR(optimizer, schedule_of(args, num_training_steps, learning_rate))


def include_new_groups(schedule: Any) -> None:
    """Include in a LambdaLR groups that were added to the optimizer, such as layers that are unfrozen.

    The learning rate of such a group is its ``initial_lr``, or else its ``lr``, times the common function.
    """
    if type(schedule) is not LambdaLR or len(set(schedule.lr_lambdas)) != 1:
        return
    for group in schedule.optimizer.param_groups[len(schedule.base_lrs) :]:
        schedule.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
        schedule.lr_lambdas.append(schedule.lr_lambdas[0])
