"""Default flow: when to log, evaluate, save and stop, as the arguments say."""

from __future__ import annotations

from typing import Any

from ..callback import TrainerCallback
from ..state import TrainerControl, TrainerState
from ..types import Args, Role


class DefaultFlowCallback(TrainerCallback):
    """Ask for logs, evaluations and checkpoints by the strategies of the arguments, and stop after the last step.

    It is called first, so that every other callback sees, and may change, what is about to happen. The evaluation and
    the checkpoint after the last step are requested by the loop itself.
    """

    role: Role = "control"
    is_flow: bool = True

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        if (args.logging_strategy == "steps" and state.logging_steps and step % state.logging_steps == 0) or (
            step == 1 and args.logging_first_step
        ):
            control.should_log = True
        if (
            args.eval_strategy == "steps"
            and state.eval_steps
            and step % state.eval_steps == 0
            and step >= args.eval_delay
        ):
            control.should_evaluate = True
        if args.save_strategy == "steps" and state.save_steps and step % state.save_steps == 0:
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True  # without a reason: the run is complete

    def on_epoch_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.logging_strategy == "epoch":
            control.should_log = True
        if args.eval_strategy == "epoch" and (state.epoch or 0.0) >= args.eval_delay:
            control.should_evaluate = True
        if args.save_strategy == "epoch":
            control.should_save = True
