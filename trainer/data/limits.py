"""Limits: the batches of an epoch that a run uses, where ``limit_train_batches`` or ``overfit_batches`` asks for few.

A limit stands between the data and the loop, ahead of both frameworks, wherever the batches come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


class EpochLimit:
    """What the training arguments leave of an epoch.

    Args:
        args: ``overfit_batches`` and ``limit_train_batches`` are read.

    Attributes:
        most: Micro-batches of an epoch on each process at most; None without a limit.
        is_fixed: Whether every epoch has the batches of the first one, in its order.
    """

    def __init__(self, args: Any) -> None:
        self.is_fixed: bool = args.overfit_batches is not None
        self.most: int | None = args.overfit_batches or args.limit_train_batches

    def epoch(self, epoch: int) -> int:
        """Return the epoch whose batches are those of ``epoch``."""
        return 0 if self.is_fixed else epoch

    def count(self, batches: int | None) -> int | None:
        """Return the number of micro-batches of an epoch, None if it is unknown, of which there are ``batches``.

        Example:
            >>> from types import SimpleNamespace
            >>> limit = EpochLimit(SimpleNamespace(overfit_batches=2, limit_train_batches=None))
            >>> limit.count(10), limit.count(1), limit.epoch(7)
            (2, 1, 0)
        """
        return batches if self.most is None or batches is None else min(batches, self.most)

    def rest(self, batches: Iterator[T], used: int, at_end: Callable[[], None]) -> Iterator[T]:
        """Return what is left of an epoch after ``used`` micro-batches; ``at_end`` is called where a limit ends it."""
        return batches if self.most is None else self._rest(batches, self.most - used, at_end)

    def _rest(self, batches: Iterator[T], left: int, at_end: Callable[[], None]) -> Iterator[T]:
        yield from first(batches, max(0, left))
        at_end()


def first(batches: Iterable[T], most: int | None) -> Iterable[T]:
    """Return the first ``most`` of ``batches``; all of them if it is None."""
    return batches if most is None else islice(batches, most)


def words_of_limits(args: Any) -> tuple[str, str]:
    """Return what the limits leave of the training data, and of an evaluation, in words; empty without a limit.

    Example:
        >>> from types import SimpleNamespace
        >>> words_of_limits(SimpleNamespace(overfit_batches=2, limit_train_batches=None, limit_eval_batches=1))
        ('the same 2 batches in each epoch (overfit_batches)', 'an evaluation has 1 batch (limit_eval_batches)')
    """
    train, evaluated = "", ""
    if args.overfit_batches is not None:
        train = f"the same {_batches(args.overfit_batches)} in each epoch (overfit_batches)"
    elif args.limit_train_batches is not None:
        train = f"{_batches(args.limit_train_batches)} of each epoch (limit_train_batches)"
    if args.limit_eval_batches is not None:
        evaluated = f"an evaluation has {_batches(args.limit_eval_batches)} (limit_eval_batches)"
    return train, evaluated


def _batches(number: int) -> str:
    return f"{number:,} batch{'' if number == 1 else 'es'}"
