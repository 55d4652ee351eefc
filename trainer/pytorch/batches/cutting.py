"""Cutting of batches: which parts of a batch have a row for each example, and a batch of some of its examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trackside.callbacks.errors import TracksideValueError

from .parts import PLAIN, Path, map_batch, parts_of


class Cutter:
    """Cuts batches of one structure.

    Args:
        batch: A batch of that structure.
        examples: The number of its examples.
        samples: Batches of one and of two examples from the same source, which show what is the same in every batch;
            without them, what has the leading size ``examples`` has a row for each example.

    Raises:
        TracksideValueError: If a part has neither rows for examples, nor is known to be the same in every batch.
    """

    def __init__(self, batch: Any, examples: int, samples: tuple[Any, Any] | None) -> None:
        self._cut: set[Path] = set()
        self._unknown: list[Path] = []
        if samples is None:
            self._look_at(batch, examples, ())
        else:
            self._compare(*samples, ())
        self._check(batch, self._unknown)

    def rows(self, batch: Any, examples: int, start: int, stop: int) -> Any:
        """Return the examples from ``start`` to ``stop`` of a batch of ``examples``."""

        def rows_of(part: Any, path: Path) -> Any:
            if path not in self._cut:
                return part
            if len(part) != examples:
                self._check(batch, [path])
            return part[start:stop]

        return map_batch(rows_of, batch, is_whole=lambda part, path: path in self._cut)

    def _compare(self, one: Any, two: Any, path: Path) -> None:
        if _length(one) == 1 and _length(two) == 2:
            self._cut.add(path)
            return
        first, second = parts_of(one), parts_of(two)
        if type(one) is not type(two) or first.keys() != second.keys():
            self._unknown.append(path)
        elif first:
            for key in first:
                self._compare(first[key], second[key], (*path, key))
        elif not _are_equal(one, two):
            self._unknown.append(path)

    def _look_at(self, part: Any, examples: int, path: Path) -> None:
        parts = parts_of(part)
        has_rows = isinstance(part, list) and path and not all(_length(item) == examples for item in parts.values())
        if (has_rows or isinstance(part, (Tensor, np.ndarray))) and _length(part) == examples:
            self._cut.add(path)
        elif parts:
            for key in parts:
                self._look_at(parts[key], examples, (*path, key))
        elif _length(part) is not None or not isinstance(part, PLAIN):
            self._unknown.append(path)

    def _check(self, batch: Any, paths: list[Path]) -> None:
        if paths:
            names = ", ".join(f"batch{''.join(f'[{key!r}]' for key in path)}" for path in paths)
            raise TracksideValueError(
                f"out of memory, and a {type(batch).__name__} batch cannot be cut into smaller ones: {names} has "
                "neither a row for each example, nor is the same in every batch. Set a smaller "
                "per_device_train_batch_size, with gradient_accumulation_steps"
            )


def _length(part: Any) -> int | None:
    """Return the number of rows or items of a part; None if it has none."""
    if isinstance(part, (Tensor, np.ndarray)):
        return len(part) if part.ndim else None
    return len(part) if isinstance(part, (list, tuple)) and not hasattr(part, "_fields") else None


def _are_equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == two.shape and bool(torch.equal(one, two))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, two))
    return bool(one == two) if isinstance(one, (*PLAIN, Mapping)) else one is two
