"""SWA: the mean of the weights at several moments late in a run."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from ...state import TrainerControl, TrainerState
from ...types import Args
from .averaging import WeightAveragingCallback


class SWACallback(WeightAveragingCallback):
    """Average the weights at the ends of the last epochs, or at updates, all with the same weight.

    From the first of these moments on, evaluations, the weights of checkpoints, saved models and the model after the
    run are the average; the run itself goes on with the weights that are trained. Buffers of floating point, such as
    the statistics of batch normalization, are averaged too. All processes average alike. Choose a learning rate that
    stays high, such as ``lr_scheduler_type="constant"``, so that the weights differ.

    Args:
        start: Where averaging begins: a share of the run below 1, or a number of updates.
        update_every: Updates between two times that the weights are mixed in; None: at the end of each epoch.

    Raises:
        ArgumentError: If an option is out of range.

    Source:
        Izmailov et al. (2018), arXiv:1803.05407.
    """

    name: str | None = "swa"

    def __init__(self, start: float = 0.75, *, update_every: int | None = None) -> None:
        super().__init__()
        if start < 0 or (start > 1 and start != int(start)):
            raise ArgumentError("start", start, "a share from 0 to 1, or a whole number of updates")
        if update_every is not None and update_every < 1:
            raise ArgumentError("update_every", update_every, "at least 1, or None")
        self.start, self.update_every = start, update_every

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.update_every is not None and state.global_step % self.update_every == 0:
            self._mix(state, kwargs["weight_average"])

    def on_epoch_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.update_every is None:
            self._mix(state, kwargs["weight_average"])

    def _mix(self, state: TrainerState, average: Any) -> None:
        if state.global_step < (self.start * state.max_steps if self.start < 1 else self.start):
            return
        if average.is_begun:
            average.mix(1 / (self.count + 1))
        else:
            self._claimed(average).begin()
        self.count += 1
