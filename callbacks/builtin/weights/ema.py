"""EMA: an exponential moving average of the weights."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from ...state import TrainerControl, TrainerState
from ...types import Args
from .averaging import WeightAveragingCallback


class EMACallback(WeightAveragingCallback):
    """Average the weights exponentially: the latest count most, and those of long ago less and less.

    Evaluations, the weights of checkpoints, saved models and the model after the run are the average; the run itself
    goes on with the weights that are trained. Buffers of floating point, such as the statistics of batch normalization,
    are averaged too. All processes average alike.

    Args:
        decay: What the average keeps of itself at each update.
        warmup: Keep less in the first updates, ``(1 + count) / (10 + count)`` at most, so that the initial weights are
            soon forgotten.
        update_every: Updates between two times that the weights are mixed in.

    Raises:
        ArgumentError: If an option is out of range.

    Source:
        Polyak and Juditsky (1992); the warm-up is that of ``tf.train.ExponentialMovingAverage``.
    """

    name: str | None = "ema"

    def __init__(self, decay: float = 0.999, *, warmup: bool = True, update_every: int = 1) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ArgumentError("decay", decay, "from 0 to less than 1")
        if update_every < 1:
            raise ArgumentError("update_every", update_every, "at least 1")
        self.decay, self.warmup, self.update_every = decay, warmup, update_every

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if not kwargs["weight_average"].is_begun:
            kwargs["weight_average"].begin()

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.update_every == 0:
            decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.warmup else self.decay
            average = self._claimed(kwargs["weight_average"])
            if not average.is_begun:  # the callback was attached within the run
                average.begin()
            average.mix(1 - decay)
            self.count += 1
