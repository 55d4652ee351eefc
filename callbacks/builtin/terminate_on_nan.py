"""Terminate on NaN: end training when the loss is not finite."""

from __future__ import annotations

import math
from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState
from ..types import Args, Record, Role


class TerminateOnNaNCallback(TrainerCallback):
    """Stop training when the loss of an update is not finite, whatever is logged.

    On a CPU the run stops at that update. On a GPU, and with TensorFlow, the host does not wait for every loss: it
    looks at a log and a save, and after every twentieth update. Several processes stop an update later.
    """

    role: Role = "control"

    def loss_not_finite(
        self, args: Args, state: TrainerState, control: TrainerControl, *, step: int, loss: float
    ) -> None:
        """Stop the run, of which update ``step`` had this ``loss``."""
        control.stop(f"loss is {loss} at step {step}")

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, *, logs: Record, **kwargs: Any) -> None:
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss):
            control.stop(f"loss is {loss} at step {state.global_step}")
