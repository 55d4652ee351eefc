"""The framework-free base of the steps: what an update has worked through."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from ..measuring.step_timer import StepTimer
from ..optim.lr_schedules import step_schedule
from ..train_step import TrainStep
from .average import WeightAverage
from .engine import BaseEngine, EnginePart


class BaseTrainStep(EnginePart, TrainStep):
    """One update; counts what it works through.

    Args:
        engine: Its timer is told when this process is about to wait for others.
        precision: Scales the loss.
    """

    def __init__(self, engine: BaseEngine, precision: Any) -> None:
        super().__init__(engine)
        self.precision: Any = precision
        self.timer: StepTimer = engine.step_timer
        self.average: WeightAverage = engine.average
        self._flos = 0
        self._tokens = 0
        self._used: Callable[[], list[dict[str, Any]]] = list  # shows the groups of the last update

    def end_update(self, skipped: bool) -> None:
        """Step the schedule, unless the optimizer's step was skipped, and clear the gradients."""
        if not skipped:
            step_schedule(self.trainer.lr_scheduler)
        self.clear_gradients()

    @abstractmethod
    def clear_gradients(self) -> None:
        """Clear the gradients."""

    def used_groups(self) -> list[dict[str, Any]]:
        """Return the hyperparameters of each parameter group in the last update; empty before the first update."""
        return self._used()

    def end_run(self) -> None:
        """Leave the model as it is evaluated and kept."""
        self.average.keep()
        self._end_run()

    def _end_run(self) -> None:
        """Do nothing: the optimizer has no other weights."""

    def take_flos(self) -> float:
        """Return the floating point operations of this process since the last call."""
        flos, self._flos = self._flos, 0
        return float(flos)

    def _count_work(self, inputs: Any, processes: int = 1) -> None:
        """Count the operations and the tokens of a micro-batch, of as many ``processes``, each with as many tokens."""
        if self.model_io.counts_flos:
            self._flos += self.trainer.floating_point_ops(inputs)
        if isinstance(inputs, Mapping) and "input_ids" in inputs:
            if self.trainer.args.include_num_input_tokens_seen == "non_padding" and "attention_mask" in inputs:
                self._tokens += int(inputs["attention_mask"].sum())  # of this process; see `_tokens_record`
            else:
                self.trainer.state.num_input_tokens_seen += math.prod(inputs["input_ids"].shape) * processes

    def _tokens_record(self) -> dict[str, float]:
        """Return the number of input tokens so far, of all processes, if a log record is to have it."""
        args, state = self.trainer.args, self.trainer.state
        if args.include_num_input_tokens_seen == "non_padding":
            seen_by_each = self.strategy.collectives.gather("the number of input tokens", self._tokens)
            state.num_input_tokens_seen += sum(seen_by_each)
            self._tokens = 0
        seen = state.num_input_tokens_seen
        return {} if args.include_num_input_tokens_seen == "no" else {"num_input_tokens_seen": seen}
