"""Updates that an optimizer computes several times at different weights, as LBFGS does."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from ...train_step import StepContext, TrainBatch


def needs_closure(optimizer: Any) -> bool:
    """Return whether the optimizer's ``step`` must be given a function that computes the update again."""
    # of the class: the method of an object that a schedule has wrapped shows its ``self``
    _, *parameters = inspect.signature(type(optimizer).step).parameters.values()
    return any(item.default is item.empty and item.kind is item.POSITIONAL_OR_KEYWORD for item in parameters)


class Closure:
    """Computes the gradients of an update at the current weights, and returns its loss.

    The first call takes what the loop has computed already. Further computations do not count in the records.

    Args:
        step: The training step.
        window: The micro-batches of the update.
    """

    def __init__(self, step: Any, window: Sequence[TrainBatch]) -> None:
        self._step = step
        self._window = window
        self._is_first = True

    def __call__(self) -> Any:
        """Return the loss of the update."""
        step = self._step
        if not self._is_first:
            step.clear_gradients()
            norm = step.grad_norm
            with step.losses.held():
                for index, batch in enumerate(self._window):
                    step.forward_and_backward(step.place(batch.inputs), batch, StepContext(index, len(self._window)))
                step.finish_gradients()
            step.grad_norm = norm
        self._is_first = False
        return step.strategy.all_reduce(step.losses.last)
