"""Default flow: when to log, evaluate, save and stop, as the arguments say."""

from __future__ import annotations

from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState
from ..types import Args, Role


class DefaultFlowCallback(TrainerCallback):
    """Ask for logs, evaluations and checkpoints by the strategies of the arguments, and stop after the last step.

    The loop itself calls it before the other callbacks, which see, and may change, what is about to happen. It is not
    attached: what the arguments ask for holds also where callbacks are removed or signals are muted. The evaluation and
    the checkpoint after the last step are requested by the loop.
    """

    role: Role = "control"

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        if args.logging_strategy == "steps" and state.logging_steps and step % state.logging_steps == 0:
            control.request("should_log", f"logging_steps={state.logging_steps}")
        elif step == 1 and args.logging_first_step:
            control.request("should_log", "logging_first_step=True")
        if (
            args.eval_strategy == "steps"
            and state.eval_steps
            and step % state.eval_steps == 0
            and step >= args.eval_delay
        ):
            control.request("should_evaluate", f"eval_steps={state.eval_steps}")
        if args.save_strategy == "steps" and state.save_steps and step % state.save_steps == 0:
            control.request("should_save", f"save_steps={state.save_steps}")
        if step >= state.max_steps:
            control.request("should_training_stop", f"max_steps={state.max_steps}")  # no stop_reason: it is complete

    def on_epoch_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.logging_strategy == "epoch":
            control.request("should_log", "logging_strategy=epoch")
        if args.eval_strategy == "epoch" and (state.epoch or 0.0) >= args.eval_delay:
            control.request("should_evaluate", "eval_strategy=epoch")
        if args.save_strategy == "epoch":
            control.request("should_save", "save_strategy=epoch")
