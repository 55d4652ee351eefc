"""Terminate on NaN: end training when the loss is not finite."""

from __future__ import annotations

import math
from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role


class TerminateOnNaNCallback(TrainerCallback):
    """Stop training when a logged training loss is not finite."""

    role: Role = "control"

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss):
            control.stop(f"loss is {loss} at step {state.global_step}")
