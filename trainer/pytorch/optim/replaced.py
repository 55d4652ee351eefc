"""An optimizer that a callback sets in place of the run's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trackside.callbacks.errors import UnsupportedError

from .closure import needs_closure
from .modes import OptimizerMode
from .several import as_one_optimizer


def check_other(step: Any, check: Callable[[], None]) -> None:
    """Prepare a training step for the optimizer, or the dict of optimizers, that its trainer now has.

    Args:
        check: Raises if the trainer's optimizer does not have the parameters of the model.

    Raises:
        UnsupportedError: If it needs a closure, and the one before did not.
    """
    optimizer = step.trainer.optimizer = as_one_optimizer(step.trainer.optimizer)
    check()
    if needs_closure(optimizer) and not needs_closure(step.parameters.optimizer):
        raise UnsupportedError(f"{type(optimizer).__name__} needs a closure; set it before train()")
    step.optimizer_mode = OptimizerMode(optimizer)
    step.optimizer_mode.train()
