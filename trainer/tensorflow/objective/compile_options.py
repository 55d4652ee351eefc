"""Options of ``Model.compile`` that have no effect in a trainer, and what to set instead."""

from __future__ import annotations

import logging
from typing import Any

import keras

from ._compat import compiled_with

logger: logging.Logger = logging.getLogger("trackside.trainer")


def tell_of_options(model: Any, args: Any, *, makes_optimizer: bool) -> None:
    """Warn of each option with which ``model`` was compiled that has no effect.

    Args:
        args: The training arguments, which may have the same option.
        makes_optimizer: Whether the trainer makes the optimizer by ``args``.
    """
    given = compiled_with(model)
    told: dict[str, str] = {}
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if makes_optimizer and optimizer is not None and not is_default(optimizer):
        told[f"optimizer={type(optimizer).__name__}"] = (
            f"the arguments have the optimizer, {args.optim} with learning_rate={args.learning_rate:g}. To train with "
            "that of the model, give TFTrainer optimizers=(model.optimizer, None)"
        )
    if given.get("jit_compile") is True and not args.xla:
        told["jit_compile=True"] = "xla=True compiles the step"
    size = given.get("steps_per_execution", 1)
    if size not in (1, None, args.steps_per_execution):
        told[f"steps_per_execution={size}"] = f"set steps_per_execution={size} in the arguments"
    _tell(told)


def tell_of_loss(model: Any, loss_fn: Any) -> None:
    """Warn of a compiled loss, and of its weights, if the trainer was given another loss."""
    given = compiled_with(model)
    loss, weights = given.get("loss"), given.get("loss_weights")
    if loss_fn is None or (weights is None and (loss is None or loss is loss_fn or loss == loss_fn)):
        return
    option = f"loss_weights={weights}" if weights is not None else f"loss={getattr(loss, 'name', loss)}"
    _tell({option: "TFTrainer was given loss_fn, which is used instead, without weights of outputs"})


def _tell(told: dict[str, str]) -> None:
    for option, instead in told.items():
        logger.warning("compile(%s) of the model has no effect here: %s", option, instead)


def is_default(optimizer: Any) -> bool:
    """Return whether an optimizer is that of a model which was compiled without one."""
    default = keras.optimizers.RMSprop()
    known = default.get_config()
    return type(optimizer) is type(default) and {**optimizer.get_config(), "name": known["name"]} == known
