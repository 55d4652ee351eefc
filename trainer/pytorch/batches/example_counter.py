"""The number of examples in a batch: as its sampler told, less what the collator left out, or by the trainer."""

from __future__ import annotations

from typing import Any

import numpy as np

from trackside.callbacks.errors import TracksideTypeError

from .parts import left_of


class ExampleCounter:
    """Returns the number of examples in a batch: those of its sampler that are in it, or ``trainer.batch_size_of``.

    Args:
        trainer: Its ``batch_size_of`` is called, overridden or not.

    Attributes:
        known: The current batch and its number of examples, if a sampler has told it.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.known: tuple[Any, int] = (None, 0)

    def __call__(self, inputs: Any) -> int:
        """Return the number of examples.

        Raises:
            TracksideTypeError: If an overridden batch_size_of returns no whole number.
        """
        batch, examples = self.known
        if batch is not None and batch is inputs:
            return left_of(inputs, examples)
        size = self._trainer.batch_size_of(inputs)
        if not isinstance(size, (int, np.integer)) or size < 0:
            raise TracksideTypeError(f"batch_size_of() returned {size!r}; it returns the number of examples in a batch")
        return int(size)
