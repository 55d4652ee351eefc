"""The losses of several optimizers as one: their sum, which has the terms of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..loss import as_mean_and_weight


def as_one_loss(result: Any) -> Any:
    """Return the sum of the means in a dict of losses; other results of compute_loss unchanged."""
    return torch.stack(means_and_weights(result.values())[0]).sum() if type(result) is dict else result


def means_and_weights(results: Iterable[Any]) -> tuple[list[Tensor], list[Any]]:
    """Return several results of compute_loss as means, and their weights, each None without one."""
    means, weights = zip(*map(as_mean_and_weight, results), strict=True)
    return list(means), list(weights)


def ratios_of(numbers: Sequence[Any]) -> list[float]:
    """Return the ratios of numbers to the first of them; empty if all are zero.

    Where they differ, those that are on a device are not read, which would wait for it, and count as NaN.

    Example:
        >>> ratios_of([2, 4.0]), ratios_of([0, 0])
        ([1.0, 2.0], [])
    """
    first = numbers[0]
    if (isinstance(first, Tensor) or first) and all(number is first for number in numbers):
        return [1.0] * len(numbers)
    read = [math.nan if isinstance(number, Tensor) else float(number) for number in numbers]
    return [number / read[0] if read[0] else math.nan for number in read] if any(read) else []
