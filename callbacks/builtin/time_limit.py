"""Time limit: end training with a checkpoint before the job's own limit ends it without one."""

from __future__ import annotations

import re
from time import monotonic
from typing import Any

from ..callback import TrainerCallback
from ..errors import ArgumentError
from ..state import TrainerControl, TrainerState
from ..types import Args, Role

UNIT_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


class TimeLimitCallback(TrainerCallback):
    """Stop training after some time, and save a checkpoint to resume from.

    The time counts from the beginning of training in this process: a resumed run has the whole limit again.

    Args:
        limit: Seconds as a number, or a text such as "1h30m", "90m" or "2d12h".
        seconds, minutes, hours: Added to ``limit``.

    Raises:
        ArgumentError: If the sum is not above 0, or the text cannot be read.
    """

    role: Role = "control"

    def __init__(
        self, limit: float | str = 0.0, *, seconds: float = 0.0, minutes: float = 0.0, hours: float = 0.0
    ) -> None:
        self.limit_s: float = seconds_in(limit) + seconds + 60.0 * minutes + 3600.0 * hours
        if not self.limit_s > 0:
            raise ArgumentError("limit", limit, "a time above 0, such as '1h30m', hours=1.5 or seconds")
        self._ends_at = float("inf")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.limit_s:g})"

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._ends_at = monotonic() + self.limit_s

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if monotonic() >= self._ends_at and not control.should_training_stop:
            control.stop(f"the time limit of {self.limit_s:g} s is over at step {state.global_step}")
            control.should_save = control.should_save or args.save_strategy != "no"


def seconds_in(text: float | str) -> float:
    """Return a duration in seconds.

    Raises:
        ArgumentError: If it is neither a number nor a text such as "1h30m".

    Example:
        >>> seconds_in("1h30m"), seconds_in("45s"), seconds_in(2.5), seconds_in("90")
        (5400.0, 45.0, 2.5, 90.0)
    """
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    number = r"(\d+(?:\.\d+)?)"
    parts = re.findall(rf"{number}([dhms])", str(text).replace(" ", "").lower())
    if parts and re.fullmatch(rf"(?:{number}[dhms])+", str(text).replace(" ", "").lower()):
        return sum(float(amount) * UNIT_SECONDS[unit] for amount, unit in parts)
    if re.fullmatch(number, str(text)):
        return float(text)
    raise ArgumentError("limit", text, "a number of seconds, or a text such as '1h30m' with the units d, h, m and s")
