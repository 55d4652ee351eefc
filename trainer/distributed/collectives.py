"""Collectives on picklable values, named and numbered, so that a mismatch between ranks is an error instead of a hang.

Information that only one rank has (a size, an exception, an answer) is exchanged through a collective; a decision from
the values of all ranks is the same on all of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from trackside.callbacks.errors import CollectiveMismatchError, RankError, describe

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """The message of one rank in a collective.

    Attributes:
        number: Number of collectives that this rank has called.
        name: The name of this collective.
        depth: Nesting depth of `Collectives.outcome` on this rank after this collective.
        value: The value of this rank.
        error: The error of this rank, which then has no value.
    """

    number: int
    name: str
    depth: int
    value: Any = None
    error: str | None = None


class Collectives:
    """The collectives of one rank.

    Every rank calls the same collectives in the same order. Each is one exchange of the same form, so that a rank that
    fails or calls another collective meets the others in their next collective, and all of them raise there.

    Args:
        exchange: Takes a `Call`; returns the calls of all ranks in rank order. Not called with a single rank.
        rank: Number of this rank.
        world_size: Number of ranks.
        collect: Takes a name and bytes; returns the bytes of all ranks in rank order on the first rank, None on the
            others. It is called after all ranks have met in an exchange. Without it, values for the first rank are
            exchanged like others.
    """

    def __init__(
        self,
        exchange: Callable[[Call], list[Call]],
        rank: int = 0,
        world_size: int = 1,
        collect: Callable[[str, bytes], list[bytes] | None] | None = None,
    ) -> None:
        self._collect = collect
        self.rank = rank
        self.world_size = world_size
        self._exchange = exchange
        self._number = 0
        self._depth = 0
        self._failure: Exception | None = None
        self._failure_depth = 0

    def gather(self, name: str, value: T) -> list[T]:
        """Return the ``value`` of every rank, in rank order.

        Args:
            name: Description of the value, for the errors of all ranks; the same on each.
            value: A picklable value.

        Raises:
            RankError: If the function of another rank in `outcome` raised.
            CollectiveMismatchError: If a rank called another collective.
        """
        return [value] if self.world_size == 1 else self._meet(name, value, None)

    def gather_to_first(self, name: str, value: T) -> list[T] | None:
        """Return the ``value`` of every rank, in rank order, on the first rank; None on the others, which receive none.

        It is for large values of which only the first rank makes something. The ranks first meet as in `gather`,
        without the values, so that all know that each will send its own.

        Args and errors are those of `gather`.
        """
        if self.world_size == 1:
            return [value]
        if self._collect is None:
            gathered = self._meet(name, value, None)
            return gathered if self.rank == 0 else None
        name = f"{name}, for the first rank"
        packed, error = b"", None
        try:
            packed = pickle.dumps(value)
        except Exception as caught:
            error = caught
        self._meet(name, None, error)
        try:
            parts = self._collect(name, packed)
        except Exception as broken:  # which ranks have sent theirs is unknown
            self._fail(broken, 0)
            raise
        return None if parts is None else [pickle.loads(part) for part in parts]

    def barrier(self, name: str) -> None:
        """Wait until every rank calls this method."""
        self.gather(name, None)

    def outcome(self, name: str, function: Callable[[], T]) -> list[T]:
        """Return the results of ``function`` on every rank, in rank order, or raise on all of them.

        ``function`` may itself use collectives. If it raises on some ranks only, the others get the error in their next
        collective, which may be inside ``function``.

        Args:
            name: Description of ``function``, for the errors of all ranks; the same on each.
            function: Returns a picklable value.

        Raises:
            Exception: The exception of ``function`` on this rank.
            RankError: If ``function`` raised on another rank only; the message has the rank and its error.
            CollectiveMismatchError: If a rank called another collective.
        """
        if self.world_size == 1:
            return [function()]
        value: Any = None
        error: Exception | None = None
        self._depth += 1
        try:
            value = function()
        except Exception as caught:
            error = caught
        finally:
            self._depth -= 1
            failure = self._failure
            if self._depth <= self._failure_depth:
                self._failure = None
        if failure is not None:  # this collective ended on all ranks before ``function`` did
            raise error or failure
        return self._meet(name, value, error)

    def _meet(self, name: str, value: Any, error: Exception | None) -> list[Any]:
        if self._failure is not None:  # ``function`` continued despite the failure
            raise self._failure
        self._number += 1
        text = None if error is None else describe(error)
        try:
            calls = self._exchange(Call(self._number, name, self._depth, value, text))
        except Exception as broken:  # which ranks received the message is unknown
            self._fail(broken, 0)
            raise
        failure = _failure_of(calls)
        if failure is not None:
            raise self._fail(error or failure, min(call.depth for call in calls))
        return [call.value for call in calls]

    def _fail(self, failure: Exception, depth: int) -> Exception:
        """Record that all calls of `outcome` deeper than ``depth`` have ended; return ``failure``."""
        if self._depth > depth:
            self._failure, self._failure_depth = failure, depth
        return failure


def _failure_of(calls: list[Call]) -> Exception | None:
    """Return the error for a rank that did not fail itself; None if all ranks called the same collective."""
    failed = next((rank for rank, call in enumerate(calls) if call.error is not None), None)
    if failed is not None:
        return RankError(f"rank {failed} failed in {calls[failed].name!r}: {calls[failed].error}")
    called = [(call.number, call.name) for call in calls]
    return CollectiveMismatchError(called) if len(set(called)) > 1 else None
