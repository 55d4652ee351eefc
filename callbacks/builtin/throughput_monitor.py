"""Throughput monitor: steps, examples and tokens per second in the log records."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import Any

from ..callback import TrainerCallback
from ..errors import check_count
from ..state import TrainerControl, TrainerState
from ..types import Args, Role


class ThroughputMonitorCallback(TrainerCallback):
    """Add ``steps_per_s``, ``samples_per_s`` and ``tokens_per_s`` of the last steps to the training records.

    The time of evaluations is left out; that of waiting for data is not. Tokens are logged if the trainer counts them.

    Args:
        window: The number of steps over which the mean is taken.

    Units:
        All per second, over all processes.
    """

    role: Role = "observer"

    def __init__(self, window: int = 100) -> None:
        check_count("window", window)
        self.window = window
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=window + 1)
        self._paused_s = 0.0

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._marks.clear()
        self._paused_s = 0.0
        self._mark(state)

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._mark(state)

    def on_evaluate(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._marks:
            self._paused_s = perf_counter() - self._marks[-1][0]

    def metrics_to_log(self, args: Args, state: TrainerState, **context: Any) -> dict[str, float]:
        """Return the rates between the oldest and the newest step of the window; nothing before the first step."""
        if len(self._marks) < 2:
            return {}
        (begin_s, first_step, first_tokens), (end_s, last_step, last_tokens) = self._marks[0], self._marks[-1]
        elapsed_s, steps = end_s - begin_s, last_step - first_step
        if elapsed_s <= 0 or steps <= 0:
            return {}
        rates = {"steps_per_s": steps / elapsed_s}
        if state.train_batch_size:
            processes = int(getattr(args, "world_size", 1))
            samples = steps * state.train_batch_size * args.gradient_accumulation_steps * processes
            rates["samples_per_s"] = samples / elapsed_s
        if last_tokens > first_tokens:
            rates["tokens_per_s"] = (last_tokens - first_tokens) / elapsed_s
        return rates

    def _mark(self, state: TrainerState) -> None:
        # by a clock that is stopped during evaluations
        self._marks.append((perf_counter() - self._paused_s, state.global_step, state.num_input_tokens_seen))
