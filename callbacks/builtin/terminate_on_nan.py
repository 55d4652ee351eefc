"""Stop when the loss is no longer a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState


class TerminateOnNaNCallback(TrainerCallback):
    """Stop training when a logged training loss is not finite."""

    role = "control"

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            control.stop(f"loss is {loss} at step {state.global_step}")
