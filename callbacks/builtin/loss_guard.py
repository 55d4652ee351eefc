"""Loss guard: keep bad batches from ruining a run. Skip them, go back to a checkpoint, lower the rate, or stop."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Any, Literal, get_args

from ..callback import TrainerCallback
from ..errors import ArgumentError, check_one_of
from ..state import TrainerControl, TrainerState
from ..types import Args, Role

logger: logging.Logger = logging.getLogger("trackside.callbacks")

Action = Literal["skip", "roll_back", "stop", "ignore"]
"""What is done about a bad update."""

SMALLEST_DEVIATION = 0.01
"""The standard deviation counts as at least this share of the mean, for losses that hardly differ."""


class LossGuardCallback(TrainerCallback):
    """Act on updates whose loss is not finite or spikes, before the optimizer steps.

    The loss of an update is the mean over all micro-batches and processes. An update whose gradients are not finite is
    bad, too, except with fp16, where the loss scaler deals with them. What is done:

    - "skip": The optimizer and the schedule do not step, and running statistics are as before. The loss is neither in
      the log records nor in train_loss.
    - "roll_back": The same, and then weights, optimizer, schedule and loss scale become those of the newest valid
      checkpoint of this run. The position in the data and the steps go on, so the batches in between are passed over.
      Before the first checkpoint, the update is only skipped.
    - "stop": The update is skipped, and training stops.
    - "ignore": Nothing.

    All processes act alike, so the callback must be attached on all of them. Each decision is a warning, and in the
    journal with its reason.

    The loss is read at every update, which waits for the device. On TFTrainer updates are done step by step.

    Args:
        non_finite: What to do about a loss or gradients that are not finite.
        spike: What to do about a spike, which is a loss beyond each of the next two bounds that is given.
        z_score: A spike is more than this many standard deviations above the mean of the window; None: no bound.
        factor: A spike is more than this many times the mean of the window; None: no bound.
        window: Number of updates in the window: the latest that were not bad.
        min_updates: Number of updates in the window before a spike is looked for; after a way back, it begins anew.
        rate_factor: Multiply the learning rates by this number, for the rest of the run, with each bad update.
        limit: Stop training at the bad update that would be more than this many within ``limit_steps``.
        limit_steps: Number of updates for ``limit``; None: the whole run.

    Raises:
        ArgumentError: If an option is out of range.
    """

    role: Role = "control"
    is_collective: bool = True

    def __init__(
        self,
        *,
        non_finite: Action = "skip",
        spike: Action = "skip",
        z_score: float | None = 6.0,
        factor: float | None = 3.0,
        window: int = 100,
        min_updates: int = 20,
        rate_factor: float = 1.0,
        limit: int = 5,
        limit_steps: int | None = 1000,
    ) -> None:
        check_one_of("non_finite", non_finite, get_args(Action))
        check_one_of("spike", spike, get_args(Action))
        _check("z_score", z_score, "above 0, or None", z_score is None or z_score > 0)
        _check("factor", factor, "above 1, or None", factor is None or factor > 1)
        _check("min_updates", min_updates, "at least 2", min_updates >= 2)
        _check("window", window, f"at least min_updates={min_updates}", window >= min_updates)
        _check("rate_factor", rate_factor, "above 0 and at most 1", 0 < rate_factor <= 1)
        _check("limit", limit, "at least 0", limit >= 0)
        _check("limit_steps", limit_steps, "at least 1, or None", limit_steps is None or limit_steps >= 1)
        if z_score is None and factor is None and spike != "ignore":
            raise ArgumentError("z_score", z_score, "a number, where factor is None, unless spike='ignore'")
        self.non_finite, self.spike = non_finite, spike
        self.z_score: float | None = z_score
        self.factor: float | None = factor
        self.min_updates = min_updates
        self.rate_factor = rate_factor
        self.limit: int = limit
        self.limit_steps: int | None = limit_steps
        self.window = window
        self.losses: deque[float] = deque(maxlen=self.window)
        """The window."""
        self.bad_steps: list[int] = []
        """The steps of the bad updates that were acted on."""

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "bad_steps": self.bad_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = deque(map(float, state["losses"]), maxlen=self.window)
        self.bad_steps = [int(step) for step in state["bad_steps"]]

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.load_state_dict({"losses": [], "bad_steps": []})
        if getattr(args, "save_strategy", None) == "no" and "roll_back" in (self.non_finite, self.spike):
            logger.warning("loss_guard is to go back to checkpoints, and save_strategy='no': it skips updates instead")

    def on_pre_optimizer_step(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        get_loss: Callable[[], float | None] = kwargs["loss"]
        loss = get_loss()
        if loss is None:  # nothing in the update counts
            return
        is_scaled = getattr(args, "fp16", False)  # then a loss scaler skips updates whose gradients are not finite
        action, what = self._judge(loss, 0.0 if is_scaled else float(kwargs["grad_norm"]))
        if action is None:
            self.losses.append(loss)
        elif action != "ignore":
            self._act(action, f"{what} at step {state.global_step + 1}", state, control)

    def _judge(self, loss: float, grad_norm: float) -> tuple[Action | None, str]:
        """Return what to do about an update, None if it is good, and what is wrong with it."""
        if not math.isfinite(loss):
            return self.non_finite, f"the loss is {loss}"
        if not math.isfinite(grad_norm):
            return self.non_finite, f"the loss is {loss:.6g}, and the norm of its gradients {grad_norm}"
        if self.spike == "ignore" or len(self.losses) < self.min_updates:
            return None, ""
        mean = fmean(self.losses)
        deviation = max(pstdev(self.losses, mean), SMALLEST_DEVIATION * abs(mean))
        is_far = self.z_score is None or loss - mean > self.z_score * deviation
        is_large = self.factor is None or loss - mean > (self.factor - 1) * abs(mean)
        if not (is_far and is_large):
            return None, ""
        usual = f"after a mean of {mean:.6g} with a standard deviation of {deviation:.3g}"
        return self.spike, f"the loss is {loss:.6g} {usual}"

    def _act(self, action: Action, reason: str, state: TrainerState, control: TrainerControl) -> None:
        step = state.global_step + 1
        first = -math.inf if self.limit_steps is None else step - self.limit_steps
        self.bad_steps = [*(bad for bad in self.bad_steps if bad > first), step]
        control.request("should_skip_update", reason)
        if action == "stop":
            control.stop(reason)
        elif len(self.bad_steps) > self.limit:
            within = "in this run" if self.limit_steps is None else f"within {self.limit_steps} updates"
            reason = f"{reason}; that is bad update number {len(self.bad_steps)} {within}, and limit={self.limit}"
            control.stop(reason)
        else:
            if action == "roll_back":
                control.request("should_roll_back", reason)
                self.losses.clear()
            if self.rate_factor != 1.0:
                control.scale_rates(self.rate_factor, reason)
        if state.is_world_process_zero:
            logger.warning("loss_guard: %s (%s)", reason, "stop" if control.should_training_stop else action)


def _check(name: str, value: Any, allowed: str, is_allowed: bool) -> None:
    if not is_allowed:
        raise ArgumentError(name, value, allowed)
