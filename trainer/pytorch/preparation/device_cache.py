"""Memory that torch keeps but does not use, given back to the device every few updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


def giving_back(batches: Iterator[T], every: int, device: torch.device, step: Callable[[], int]) -> Iterator[T]:
    """Return ``batches``, and give unused memory of ``device`` back before every update that ``every`` divides.

    Args:
        step: Returns the number of updates so far.
    """
    give_back = getattr(getattr(torch, device.type, None), "empty_cache", None)  # a CPU has none
    last = -1
    for batch in batches:
        if give_back is not None and step() % every == 0 and step() != last:
            last = step()
            give_back()
        yield batch
