"""Straggler monitor: the step times of all processes in the log records, and a warning that names a slow one."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any

from .._util.deprecation import deprecated
from ..callback import TrainerCallback
from ..errors import ArgumentError
from ..state import TrainerControl, TrainerState
from ..types import Args, OnError, Role

logger: logging.Logger = logging.getLogger("trackside.callbacks")

RECORDS_IN_A_ROW = 3
"""A process is reported when it is slow in this many records one after the other."""

NEGLIGIBLE_LAG = 0.05
"""A lag of less than this share of a step is not reported."""


class StragglerMonitorCallback(TrainerCallback):
    """Add the step times of all processes to the training records, and warn of one that is always the slowest.

    A whole step takes as long on every process as on the slowest, since all wait for each other when they exchange
    gradients. The *local step time* tells them apart: from asking for the data of an update to the beginning of its
    last backward pass, during which gradients are exchanged. It covers data, callbacks and forward passes (and, with
    accumulation, the earlier backward passes), not evaluation, saving and logging. On a GPU it is measured by the GPU's
    clock. The records get means since the last record:

    - ``step_time_s_mean`` and ``step_time_s_max``: whole steps, the mean and the largest over the processes,
    - ``own_time_s_mean`` and ``own_time_s_max``: local step times likewise,
    - ``slowest_rank``: the process with the largest local step time.

    Some of a step cannot always be told apart, and the local step time ends earlier: with FSDP, whose forward pass
    exchanges weights, and on TFTrainer, where forward and backward are one call, it covers data and callbacks alone; on
    TPU cores, which compute later, the work of the host before. Three things are not covered: a ``training_step`` that
    goes backward without ``self.backward``, for which there are only whole steps; the last backward pass itself; and a
    slow rank 0 of a model whose buffers DDP broadcasts at the beginning of the forward pass, for which the others wait
    within their local step time (``ddp_broadcast_buffers=False`` shows it).

    At each record all processes exchange these numbers, so the callback must be attached on all of them, as it is by a
    config file or by the same line in a script; train() raises an error if it is not.

    Args:
        warn_ratio: Warn, once for each process, of one whose local step time is more than this times the mean of the
            others', three records in a row, and by at least a twentieth of a step.
        per_rank: Also add ``own_time_s_rank0``, ``own_time_s_rank1`` and so on.

    Units:
        Seconds.

    Raises:
        ArgumentError: If ``warn_ratio`` is not above 1.
    """

    role: Role = "observer"
    on_error: OnError | None = "raise"  # an exchange between processes that fails is an error of the run
    is_collective: bool = True

    def __init__(self, *, warn_ratio: float = 1.5, per_rank: bool = False) -> None:
        if not warn_ratio > 1.0:
            raise ArgumentError("warn_ratio", warn_ratio, "a number above 1")
        self.warn_ratio = warn_ratio
        self.per_rank = per_rank
        self._slow_rank: int | None = None
        self._in_a_row = 0
        self._warned: set[int] = set()
        self._timer: Any = None

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._slow_rank, self._in_a_row, self._warned = None, 0, set()
        self._timer = kwargs.get("step_timer")  # None in a replay
        if self._timer is not None:
            self._timer.take()
            self._timer.is_on = True

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._timer is not None:
            self._timer.step_end()

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._timer is not None:
            self._timer.is_on = False

    def metrics_to_log(self, args: Args, state: TrainerState, trainer: Any, **context: Any) -> dict[str, float]:
        """Return the times over all processes, equal on every process."""
        here = f"{socket.gethostname()}, process {os.getpid()}"
        everywhere = trainer.gather_objects((*self._timer.take(), here))
        steps, own = ([times[part] for times in everywhere] for part in (0, 1))
        record: dict[str, float] = {}
        if None not in steps:
            record |= {"step_time_s_mean": sum(steps) / len(steps), "step_time_s_max": max(steps)}
        if None not in own:
            record |= {"own_time_s_mean": sum(own) / len(own), "own_time_s_max": max(own)}
            record["slowest_rank"] = slowest = own.index(max(own))
            if self.per_rank:
                record |= {f"own_time_s_rank{rank}": seconds for rank, seconds in enumerate(own)}
            if state.is_world_process_zero:
                self._watch(slowest, everywhere[slowest][2], own, record.get("step_time_s_max", 0.0))
        return record

    def _watch(self, slowest: int, where: str, own: Sequence[float], step_s: float) -> None:
        others = mean_of_others(own, slowest)
        lag_s = own[slowest] - others
        is_slow = own[slowest] > self.warn_ratio * others and lag_s > NEGLIGIBLE_LAG * step_s
        self._in_a_row = self._in_a_row + 1 if is_slow and slowest == self._slow_rank else int(is_slow)
        self._slow_rank = slowest
        if self._in_a_row < RECORDS_IN_A_ROW or slowest in self._warned:
            return
        self._warned.add(slowest)
        told = (slowest, where, own[slowest], own[slowest] / max(others, 1e-9), others)
        logger.warning(
            "rank %d (%s) holds up the others: its local step time is %.4g s, %.3g times that of the others (%.4g s), "
            "which wait for it",
            *told,
        )


def mean_of_others(values: Sequence[float], index: int) -> float:
    """Return the mean of all values but the one at ``index``; that one if there are no others.

    Example:
        >>> mean_of_others([1.0, 9.0, 3.0], 1), mean_of_others([4.0], 0)
        (2.0, 4.0)
    """
    others = [value for position, value in enumerate(values) if position != index]
    return sum(others) / len(others) if others else values[index]


@deprecated("StragglerMonitorCallback", since="0.2.0", removed_in="1.0.0")
class RankTimeMonitorCallback(StragglerMonitorCallback):
    """The former name of `StragglerMonitorCallback`, under which its costs and its position are kept."""
