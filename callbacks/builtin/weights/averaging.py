"""Weight averaging: the base class of callbacks that average the weights of the model."""

from __future__ import annotations

import logging
from typing import Any

from ...callback import TrainerCallback
from ...state import TrainerControl, TrainerState
from ...types import Args, Role

logger: logging.Logger = logging.getLogger("trackside.callbacks")


class WeightAveragingCallback(TrainerCallback):
    """Average the weights of the model; `WeightAverage` in the trainer says who gets the average.

    Attributes:
        averages_weights: Says that the callback goes on with the average in a checkpoint.
        count: Number of times that the weights were mixed in.
    """

    role: Role = "control"
    averages_weights: bool = True

    def __init__(self) -> None:
        self.count: int = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        average = self._claimed(kwargs["weight_average"])
        if not average.is_begun:
            self.count = 0

    def undo(self, args: Args, state: TrainerState, **kwargs: Any) -> None:
        """Let go of the average when the callback is removed within a run."""
        average = kwargs["weight_average"]
        if average.is_begun and state.is_world_process_zero:
            logger.warning(
                "%s was removed: the average of the weights is dropped, and the run goes on with the weights that are "
                "trained",
                type(self).__name__,
            )
        average.forget()

    def _claimed(self, average: Any) -> Any:
        """Return the average of the trainer, reserved for this callback, which may have been attached within a run."""
        average.claim(type(self).__name__)
        return average
