"""Mode of an optimizer with ``train()`` and ``eval()``, such as a schedule-free one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OptimizerMode:
    """The mode of an optimizer whose weights differ in training and evaluation; of others, nothing.

    Args:
        optimizer: The optimizer; None before there is one.

    Attributes:
        exists: Whether the optimizer has modes.

    Source:
        Defazio et al. (2024), arXiv:2405.15682; the interface of schedulefree's optimizers.
    """

    def __init__(self, optimizer: Any = None) -> None:
        self._optimizer = optimizer
        self._is_training = False
        self.exists: bool = all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))

    def train(self) -> None:
        """Go to training mode, in which the optimizer steps."""
        if self.exists:
            self._optimizer.train()
            self._is_training = True

    def eval(self) -> None:
        """Go to evaluation mode, in which the weights are those to evaluate and to keep."""
        if self.exists:
            self._optimizer.eval()
            self._is_training = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Return a context in evaluation mode, which ends in the mode in which it began."""
        was_training = self._is_training
        self.eval()
        try:
            yield
        finally:
            if was_training:
                self.train()
