"""The framework-free base of the engines and of their parts."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import TracksideValueError

from ..data.limits import EpochLimit
from ..distributed.strategy import BaseStrategy
from ..engine import Engine
from ..measuring.step_timer import StepTimer
from ..optim.given import GivenOptimizers
from ..optim.resuming import MadeOptimizer
from ..overrides import Overrides
from ..progress import Progress
from ..train_step import TrainBatch
from .average import WeightAverage
from .sandbox import ModelSandbox

logger: logging.Logger = logging.getLogger("trackside.trainer")

REPLACED = "trainer.%s was replaced within the run: %s the one that the run began with. Set it before train()"
"""What is told when something that a run was prepared with is replaced in it."""


class BaseEngine(Engine):
    """An engine without a framework.

    Args:
        trainer: Has model, arguments, optimizer and schedule; its documented methods are called, overridden or not.
        dispatcher: Receives the keyword arguments of callbacks.
        overrides: The documented methods that the trainer overrides.
        strategy: The distribution of the run over processes.
        step_timer: Times whole steps.

    Attributes:
        model_io: Calls the model.
    """

    model_io: Any

    def __init__(
        self, trainer: Any, dispatcher: Dispatcher, overrides: Overrides, strategy: BaseStrategy, step_timer: StepTimer
    ) -> None:
        self.trainer: Any = trainer
        self.dispatcher: Dispatcher = dispatcher
        self.overrides: Overrides = overrides
        self.strategy = strategy
        self.step_timer = step_timer
        self.given: GivenOptimizers = GivenOptimizers(trainer)
        self.made: MadeOptimizer | None = None
        self.sandbox: ModelSandbox = self._new_sandbox()
        self.average: WeightAverage = self._new_average()
        dispatcher.context["weight_average"] = self.average

    @abstractmethod
    def _new_sandbox(self) -> ModelSandbox:
        """Return the sandbox of the model."""

    @abstractmethod
    def _new_average(self) -> WeightAverage:
        """Return the average of the weights, not begun."""

    def replace_model(self) -> None:
        """Let go of the previous model, optimizer, schedule and training data, and set up for the present model."""
        self.made = None
        self.average.forget()
        self.given.restore()
        self.configure()

    # -- data ---------------------------------------------------------------------------------------------------------

    def prepare_data(self, resized: tuple[int | None, int] | None = None) -> int | None:
        """Build the source of training batches; return the batches per epoch that a limit leaves."""
        self.average.forget()
        self.limit: EpochLimit = EpochLimit(self.trainer.args)
        self._order_seed: int = self.trainer.args.order_seed
        return self.limit.count(self._prepare_data(resized))

    def refresh_data(self, epoch: int) -> tuple[bool, int | None]:
        """Take the training data as callbacks have left it; return whether it changed, and its micro-batches."""
        is_changed, batches = self._refresh_data(self.limit.epoch(epoch))
        return is_changed, self.limit.count(batches)

    def epoch_batches(self, progress: Progress) -> Iterator[TrainBatch]:
        """Return this process's micro-batches of the rest of an epoch that a limit leaves."""
        limit, seed = self.limit, self._order_seed if progress.order_seed is None else progress.order_seed
        batches = self._epoch_batches(limit.epoch(progress.epoch), progress.examples_in_epoch, seed)
        return self.step_timer.reading(limit.rest(batches, progress.batches_in_epoch, self._end_epoch))

    @abstractmethod
    def _prepare_data(self, resized: tuple[int | None, int] | None) -> int | None:
        """See `prepare_data`, without a limit."""

    @abstractmethod
    def _refresh_data(self, epoch: int) -> tuple[bool, int | None]:
        """See `refresh_data`, without a limit."""

    @abstractmethod
    def _epoch_batches(self, epoch: int, skip_examples: int, seed: int) -> Iterator[TrainBatch]:
        """Return the micro-batches of an epoch, ordered by ``seed``, behind ``skip_examples`` examples."""

    def _end_epoch(self) -> None:
        """Complete the updates of an epoch whose batches are not read to their end."""

    # -- optimizer and schedule -----------------------------------------------------------------------------------

    def create_optimizer_and_scheduler(self, max_steps: int) -> None:
        """Have the trainer create the optimizer and the schedule again, unless the user gave them.

        Raises:
            TracksideValueError: If an override creates no optimizer.
        """
        trainer = self.trainer
        with self.given.restored():
            trainer.create_optimizer_and_scheduler(max_steps)
        if trainer.optimizer is None:
            raise TracksideValueError(
                "create_optimizer_and_scheduler() made no optimizer: it sets self.optimizer, and self.lr_scheduler"
            )

    def _note_made(self, make: Callable[[Any, Any, Any], MadeOptimizer]) -> None:
        """Keep the optimizer and the schedule as made; those that the user gave keep what they were at first."""
        optimizer, schedule = self.given.note_left()
        if self.made is None or self.made.optimizer is not optimizer or self.made.schedule is not schedule:
            self.made = make(optimizer, schedule, self.trainer.model)

    def take_other_optimizer(self) -> Any:
        """Go on with the optimizer that a callback has set within the run, and return it; checkpoints describe it."""
        made = self.made
        assert made is not None  # the model is prepared
        logger.warning(REPLACED, "optimizer", "this one steps from now on, and the schedule is that of")
        other = type(made)(self.trainer.optimizer, made.schedule, self.trainer.model)  # type: ignore[call-arg]
        made.record.update({**other.record, "schedule": made.record["schedule"]})  # which the progress has, too
        other.record, self.made = made.record, other
        return self.trainer.optimizer

    def take_other_schedule(self) -> None:
        """Let the next checkpoint describe the schedule that a callback has set within the run, which steps already."""
        made, schedule = self.made, self.trainer.lr_scheduler
        if made is None or schedule is made.schedule:
            return
        logger.warning(REPLACED, "lr_scheduler", "this one steps, and a resumed run begins with one like")
        other = type(made)(self.trainer.optimizer, schedule, self.trainer.model)  # type: ignore[call-arg]
        made.schedule = schedule
        made.record["schedule"] = other.record["schedule"]  # which the progress has, too

    def reschedule(self, max_steps: int, step: int) -> None:
        """Make the schedule for another length of the run, and go to its position; one of the user's own stays."""
        trainer, made = self.trainer, self.made
        if trainer.lr_scheduler is None or made is None:
            return
        if self.given.pair[1] is not None or "create_optimizer_and_scheduler" in self.overrides:
            logger.warning("the schedule, which is yours, stays as it was made")
            return

        def make() -> Any:
            trainer.lr_scheduler = None
            return self.overrides.method("create_scheduler")(max_steps, trainer.optimizer)

        made.reschedule(make, step)
        trainer.lr_scheduler = made.schedule
        self.given.note_left()

    def optimizer_record(self) -> dict[str, Any] | None:
        """Return the description of optimizer and schedule as made; None before the model is prepared."""
        return None if self.made is None else self.made.record

    def count_examples(self, window: Sequence[TrainBatch]) -> int:
        """Return the examples in a window, counted over all processes."""
        return sum(batch.examples_of_all for batch in window)


def tell_of_other_model() -> None:
    """Warn that a callback has set another model within the run."""
    logger.warning(REPLACED, "model", "evaluations and checkpoints have this one, and the updates train")


class EnginePart:
    """A part of an engine.

    Args:
        engine: The engine that it belongs to; configured up to this part.
    """

    def __init__(self, engine: BaseEngine) -> None:
        self.engine = engine
        self.trainer: Any = engine.trainer
        self.overrides: Overrides = engine.overrides
        self.strategy: BaseStrategy = engine.strategy
        self.model_io: Any = engine.model_io
