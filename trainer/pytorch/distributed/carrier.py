"""A few numbers that are summed over the processes together with the gradients, at no collective of their own.

DistributedDataParallel adds up the gradients of all parameters it was given, in buckets. The carrier is one more
parameter in them, which the model does not have and no optimizer sees. The backward pass begins at it beside the loss,
so that its "gradient" are the numbers. On a CPU, where every small exchange takes the core that computes, this is a
tenth of a step less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .strategy import Roots

NAME = "_trackside_carrier"


class Carrier:
    """Takes numbers of this process along with an update's gradients, and gives their sums over all.

    Args:
        size: How many numbers.
        dtype: That of the model's parameters, so that the numbers go into their buckets.
        world_size: How many processes there are.

    Attributes:
        has_left: Whether this update's numbers went along with its backward pass.
    """

    def __init__(self, size: int, dtype: torch.dtype, world_size: int) -> None:
        self.parameter = nn.Parameter(torch.zeros(size, dtype=dtype))
        self._world_size = world_size
        self._loaded: list[float] = []
        self._tensor = torch.zeros(size, dtype=dtype)
        self._numbers: Tensor | None = None
        self._is_gone = False
        self.has_left = False

    @contextmanager
    def aboard(self, model: nn.Module) -> Iterator[None]:
        """A context in which the carrier is one of the parameters of ``model``."""
        model.register_parameter(NAME, self.parameter)
        try:
            yield
        finally:
            del model._parameters[NAME]

    def begin(self) -> None:
        """Begin an update."""
        self._numbers, self._is_gone, self.has_left = None, False, False

    def load(self, numbers: Sequence[float]) -> None:
        """Give the numbers to be taken along; before the backward pass."""
        if numbers != self._loaded:  # mostly they are those of the update before
            # DDP takes the mean: a whole number stays one in spite of it
            scaled = [self._world_size * number for number in numbers]
            self._loaded, self._tensor = list(numbers), torch.tensor(scaled, dtype=self.parameter.dtype)
        self._numbers = self._tensor

    def leave(self) -> Roots:
        """Return the carrier, and the numbers as its gradient, once in an update; see `Alone.go_along`."""
        if self._is_gone:
            return (), ()
        self._is_gone, self.has_left = True, self._numbers is not None
        return (self.parameter,), (torch.zeros_like(self.parameter) if self._numbers is None else self._numbers,)

    def unload(self) -> list[float]:
        """Return the sums; after the backward pass."""
        sums: list[float] = self.parameter.grad.tolist() if self.parameter.grad is not None else []
        self.parameter.grad = None
        return sums
