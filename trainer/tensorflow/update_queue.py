"""Queue of updates that run in one call if no callback observes the model between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import TracksideValueError
from trackside.callbacks.events import Signal

from ..recovery import steers_update
from ..train_step import TrainBatch
from .data.readers import Reader
from .distributed.strategy import Needs

WITHIN_UPDATES = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")

WITHIN_EPOCHS = (
    *("on_step_begin", *WITHIN_UPDATES, "on_step_end", "on_log", "on_save", "on_load"),
    *("on_evaluate_begin", "on_evaluate", "on_predict_begin", "on_predict", "on_prediction_step"),
)
"""Events between two updates of an epoch."""

MAX_MICRO_BATCHES = 8
"""Maximum number of micro-batches in a compiled update, which bounds the size of its function."""

Update = tuple[Sequence[TrainBatch], float]
"""The micro-batches of an update, and its learning rate."""


class UpdateQueue:
    """Pending updates.

    Args:
        size: Number of updates in one call; below 2, none is queued.
        execute: Does the updates of a list; batches that are read have the same shapes.
    """

    def __init__(self, size: int, execute: Callable[[list[Update]], None]) -> None:
        self.size = size
        self._execute = execute
        self._waiting: list[Update] = []
        self._shapes: list[Any] = []

    @property
    def is_empty(self) -> bool:
        """Whether every update was done."""
        return not self._waiting

    @property
    def is_used(self) -> bool:
        """Whether updates may be queued, where no callback observes the model between them."""
        return self.size > 1

    def add(self, window: Sequence[TrainBatch], learning_rate: float) -> None:
        """Queue an update; do all queued updates once the queue is full."""
        shapes = _shapes(window)
        if shapes != self._shapes:
            self.flush()
            self._shapes = shapes
        self._waiting.append((window, learning_rate))
        if len(self._waiting) == self.size:
            self.flush()

    def clear(self) -> None:
        """Forget the updates that a run left when it failed."""
        self._waiting = []

    def flush(self) -> None:
        """Do all queued updates."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._execute(waiting)


def is_whole(window: Sequence[TrainBatch], args: Any) -> bool:
    """Return whether an update has as many micro-batches as most; those that are read, as many examples, too."""
    return len(window) == args.gradient_accumulation_steps and all(
        isinstance(batch.inputs, Reader) or batch.examples_of_all == args.train_batch_size for batch in window
    )


class StepObservers:
    """Determines the steps at which a callback could observe the model.

    Args:
        receivers: Returns the receivers of an event.
    """

    def __init__(self, receivers: Callable[[str], tuple[Any, ...]]) -> None:
        self._receivers = receivers
        self._seen: tuple[Any, ...] = ()
        self._intervals: list[int] = []

    def __call__(self, step: int) -> bool:
        """Return whether a callback gets the event of a step after which ``step`` updates are complete."""
        seen = (self._receivers("on_step_begin"), self._receivers("on_step_end"))
        if seen != self._seen:
            self._seen = seen
            self._intervals = [every for receivers in seen for receiver in receivers if (every := _interval(receiver))]
        return bool(self._intervals) and any(step % every == 0 for every in self._intervals)


class OwnNeeds:
    """Determines what callbacks of this process need of an update.

    Args:
        dispatcher: Has the receivers of events.
        is_queued: Whether updates are queued, so that it matters who observes the model between them.
    """

    def __init__(self, dispatcher: Dispatcher, *, is_queued: bool) -> None:
        self._dispatcher = dispatcher
        self._observers = StepObservers(dispatcher.receivers) if is_queued else None

    def __call__(self, step: int) -> Needs:
        """Return the needs of the update that completes ``step``."""
        in_pieces = any(map(self._dispatcher.receivers, WITHIN_UPDATES))
        is_observed = self._observers is not None and self._observers(step)
        return Needs(in_pieces, in_pieces and steers_update(self._dispatcher), is_observed)


class EpochObservers:
    """Determines whether a callback could change the model within an epoch.

    Args:
        receivers: Returns the receivers of an event.
    """

    def __init__(self, receivers: Callable[[str], tuple[Any, ...]]) -> None:
        self._receivers = receivers
        self._version: int | None = None
        self._found = False

    def __call__(self) -> bool:
        """Return whether any gets an event between two updates; callbacks of this package do not count."""
        if self._version != Signal.version:
            self._version = Signal.version
            self._found = any(_interval(receiver) for event in WITHIN_EPOCHS for receiver in self._receivers(event))
        return self._found


def _interval(receiver: Callable[..., Any]) -> int:
    """Return the step interval of a receiver; 0 for callbacks of this package, which do not read weights."""
    attachment = getattr(receiver, "attachment", None)
    if attachment is not None and type(attachment.callback).__module__.startswith("trackside.callbacks."):
        return 0
    return int(getattr(receiver, "every", 1))


def _shapes(window: Sequence[TrainBatch]) -> list[Any]:
    """Return the shapes of batches that are read; empty for others."""
    if isinstance(window[0].inputs, Reader):
        return []
    return [None if leaf is None else tuple(leaf.shape) for leaf in tf.nest.flatten([b.inputs for b in window])]


def not_in_pieces(trainer: str, heard: Sequence[str]) -> TracksideValueError:
    """Return the error for a trainer whose overrides need an update in one piece when it must be split.

    Args:
        trainer: The name of its class.
        heard: The events inside an update that callbacks listen to.
    """
    in_pieces = (
        f"over {MAX_MICRO_BATCHES} micro-batches, auto_find_batch_size and float16 on several replicas cut it up"
    )
    why = f"callbacks listen to {', '.join(heard)}" if heard else in_pieces
    return TracksideValueError(
        f"{trainer} overrides apply_gradients or distributed_training_steps, which do an update in one piece, but "
        f"{why}. Override training_step, run_model or compute_loss instead, or let no callback listen inside"
    )
