"""Weight averaging: the base class of callbacks that average the weights of the model."""

from __future__ import annotations

from typing import Any

from ...callback import TrainerCallback
from ...state import TrainerControl, TrainerState
from ...types import Args, Role


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
        average = kwargs["weight_average"]
        average.claim(type(self).__name__)
        if not average.is_begun:
            self.count = 0
