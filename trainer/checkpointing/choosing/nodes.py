"""Output folders of the machines of a run: one that all of them see, or with ``save_on_each_node`` one on each.

If each machine has its own, the first process of each writes, and all machines go on from the same step: what their
folders hold is compared before anything is restored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from trackside.callbacks.errors import ArgumentError, CheckpointError

from ...distributed.collectives import Collectives
from ...staging import StagingFolder
from ..discovery import run_id_of
from ..names import step_of

T = TypeVar("T")
Find = Callable[[float], Path | None]
"""Returns the newest checkpoint of this machine's folder up to a step; None without one."""


class Held(NamedTuple):
    """The newest checkpoint of a machine: its step, its run and its name; None and "" without one."""

    step: int | None
    run_id: str | None
    name: str


class Nodes:
    """The machines of a run, whose processes agree on what is in their folders.

    Args:
        args: Read for ``save_on_each_node``, ``should_save`` and ``output_dir``.
        collectives: Those of this process. All processes call each method if the folders `are_apart`, and otherwise
            only the process that looks into the folder.
    """

    def __init__(self, args: Any, collectives: Collectives) -> None:
        self._args = args
        self._collectives = collectives
        self.are_apart: bool = bool(args.save_on_each_node) and collectives.world_size > 1

    def begin(self, run_id: str) -> str:
        """Return the id of the run, which is that of the first process.

        Raises:
            ArgumentError: If several machines would write what they cannot write each on its own.
        """
        args = self._args
        told = self._collectives.gather("who writes checkpoints", (run_id, args.should_save))
        if sum(writes for _, writes in told) > 1:
            if args.fsdp:
                raise _not_apart("with fsdp, whose processes write one checkpoint together into a folder that all see")
            if isinstance(args.output_dir, StagingFolder):
                raise _not_apart("with an output_dir that is an address, which all machines see")
        return told[0][0]

    def first(self, what: str, function: Callable[[], T]) -> T:
        """Return what ``function`` returns on the first process."""
        if not self.are_apart:
            return function()
        is_first = self._collectives.rank == 0
        result: Any = self._collectives.outcome(what, lambda: function() if is_first else None)[0]
        return result  # type: ignore[no-any-return]

    def each(self, what: str, function: Callable[[], T]) -> list[T | None]:
        """Call ``function`` on each process that writes; return the results of all processes, None of the others."""
        if not self.are_apart:
            return [function()]
        return self._collectives.outcome(what, lambda: function() if self._args.should_save else None)

    def newest(self, what: str, find: Find) -> Path | None:
        """Return the newest checkpoint that the folder of each machine holds; None if all are empty.

        Args:
            what: Description of ``find``, for the errors of all processes.
            find: Looks into the folder of this machine.

        Raises:
            CheckpointError: If a machine has no checkpoint that the others have, or one of another run.
        """
        if not self.are_apart:
            return find(math.inf)
        last, at_first = math.inf, None
        while True:
            there = self._held(what, partial(find, last))
            at_first = there if at_first is None else at_first
            if len({(held.step, held.run_id) for held in there.values()}) == 1:
                own = there.get(self._collectives.rank, there[0])
                return None if own.step is None else Path(self._args.output_dir, own.name)
            steps = [held.step for held in there.values() if held.step is not None]
            if len(steps) < len(there) or len(set(steps)) == 1 or max(steps) > last:
                raise CheckpointError(_not_the_same(at_first))
            last = min(steps)

    def _held(self, what: str, find: Callable[[], Path | None]) -> dict[int, Held]:
        """Return what ``find`` returns on each process that writes, by its rank."""

        def look() -> Held:
            path = find()
            return Held(None, None, "") if path is None else Held(step_of(path), run_id_of(path), path.name)

        return {rank: held for rank, held in enumerate(self.each(what, look)) if held is not None}


def _not_the_same(there: Mapping[int, Held]) -> str:
    texts = [
        f"{'nothing' if held.step is None else f'{held.name} of run {held.run_id}'} on the machine of rank {rank}"
        for rank, held in there.items()
    ]
    return (
        f"save_on_each_node: the machines do not hold the same checkpoint: {', '.join(texts)}. Copy the folder "
        "of one to those that lack it, or start afresh with overwrite_output_dir=True"
    )


def _not_apart(reason: str) -> ArgumentError:
    return ArgumentError("save_on_each_node", True, f"False {reason}")
