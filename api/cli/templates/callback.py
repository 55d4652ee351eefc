"""CallbackNameCallback: replace this line by what the callback does."""

from __future__ import annotations

from typing import Any

from trackside import TrainerCallback


class CallbackNameCallback(TrainerCallback):
    """Count the log records of a run.

    Args:
        start: Where to begin.
    """

    role = "observer"  # "control" if it steers the run through ``control``

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.records = start

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records = state["records"]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:  # above 0, the run is resumed
            self.records = self.start

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.records += 1
