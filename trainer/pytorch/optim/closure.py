"""Updates that an optimizer computes several times at different weights, as LBFGS and SAM do."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...train_step import StepContext, TrainBatch


def needs_closure(optimizer: Any) -> bool:
    """Return whether the optimizer's ``step`` must be given a function that computes the update again."""
    step: Any = type(optimizer).step  # of the class: that of an object that a schedule has wrapped shows its ``self``
    _, *parameters = inspect.signature(step).parameters.values()
    if any(item.default is item.empty and item.kind is item.POSITIONAL_OR_KEYWORD for item in parameters):
        return True
    return bool(parameters) and _refuses_none(step, parameters[0].name)


def _refuses_none(step: Callable[..., Any], name: str) -> bool:
    """Return whether ``step`` begins by raising, or by an assertion, if its parameter ``name`` is None."""
    if step.__module__.startswith("torch."):
        return False
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(step)))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # it has no source
        return False
    is_none, is_given = f"{name} is None", (name, f"{name} is not None")
    for node in getattr(function, "body", []):
        if isinstance(node, ast.Assert) and ast.unparse(node.test) in is_given:
            return True
        if isinstance(node, ast.If) and ast.unparse(node.test) in (is_none, f"not {name}"):
            return isinstance(node.body[0], ast.Raise)
    return False


class Closure:
    """Computes the gradients of an update at the current weights, and returns its loss.

    The first call takes what the loop has computed already, unless the optimizer has moved the weights or cleared the
    gradients before it. Further computations do not count in the records.

    Args:
        step: The training step.
        window: The micro-batches of the update.
    """

    def __init__(self, step: Any, window: Sequence[TrainBatch]) -> None:
        self._step = step
        self._window = window
        self._computed: list[Any] | None = self._weights()

    def _weights(self) -> list[Any]:
        """Return what changes when a weight or its gradient does."""
        return [(p._version, p.data_ptr(), getattr(p.grad, "_version", -1)) for p in self._step.parameters.stepped]

    def __call__(self) -> Any:
        """Return the loss of the update."""
        with torch.enable_grad():
            return self._loss()

    def _loss(self) -> Any:
        step = self._step
        if self._computed != self._weights():
            step.clear_gradients()
            norm = step.grad_norm
            with step.losses.held():
                for index, batch in enumerate(self._window):
                    step.forward_and_backward(step.place(batch.inputs), batch, StepContext(index, len(self._window)))
                step.finish_gradients()
            step.grad_norm = norm
        self._computed = None
        return step.strategy.all_reduce(step.losses.last)
