"""Recovery of a run, as callbacks ask for it: an update is skipped, the run goes back, the rates become lower."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher

from .checkpoint_manager import CheckpointManager
from .checkpointing.discovery import newest_valid, tell
from .checkpointing.restoring import SavedRun
from .engine import Engine
from .progress import Progress

logger: logging.Logger = logging.getLogger("trackside.trainer")


class Recovery:
    """Does what callbacks decide about bad updates, on all processes alike.

    Args:
        engine: Skips updates, and restores checkpoints.
        dispatcher: Has the flags; sends on_load.
        checkpoints: Reads the checkpoints of the run.
        resumed_from: The folder that the run was resumed from; None for a fresh start.
    """

    def __init__(
        self, engine: Engine, dispatcher: Dispatcher, checkpoints: CheckpointManager, resumed_from: Path | None
    ) -> None:
        self.engine = engine
        self.dispatcher = dispatcher
        self.checkpoints = checkpoints
        self.resumed_from = resumed_from
        self._told: set[str] = set()
        self._is_steered = self._is_kept = False
        self._loss: tuple[float | None] | None = None

    # -- an update ------------------------------------------------------------------------------------------------

    def begin_update(self) -> None:
        """Keep what an update changes before the optimizer's step, if a callback may skip it."""
        self._is_steered, self._loss = steers_update(self.dispatcher), None
        self._is_kept = self._is_steered or self.engine.strategy.may_skip(False)  # by a callback of another process
        if self._is_kept:
            self.engine.train_step.keep_state()

    def loss(self) -> float | None:
        """Return the mean loss over all processes of the update whose gradients are complete; None if nothing counts.

        All processes call it together, since they exchange it. The first call in an update waits for the device.
        """
        if self._loss is None:
            self._loss = (self.engine.train_step.update_loss(),)
        return self._loss[0]

    def skips(self, stop_signal: str | None) -> bool:
        """Return whether callbacks skip this update, as the first process decides, and take it back if they do."""
        control = self.dispatcher.control
        if self.engine.strategy.may_skip(self._is_steered):
            self.engine.sync_control(stop_signal)
        if not control.should_skip_update:
            return False
        control.should_skip_update = False
        self.engine.train_step.take_back(is_kept=self._is_kept)
        return True

    # -- after an update ------------------------------------------------------------------------------------------

    def act(self, progress: Progress) -> bool:
        """Go back to a checkpoint and multiply the rates, if the flags ask for it; return whether an event was sent."""
        control = self.dispatcher.control
        is_back = control.should_roll_back
        if is_back:
            control.should_roll_back = False
            self._roll_back(progress)
        if control.rate_factor != 1.0:
            factor, control.rate_factor = control.rate_factor, 1.0
            progress.rate_factor *= factor
            self._scale(factor)
        return is_back

    def resume(self, saved: SavedRun) -> None:
        """Multiply the rates of a resumed run as before, unless the checkpoint's schedule has restored them."""
        progress, args = saved.progress, self.dispatcher.args
        if saved.args.get("learning_rate", args.learning_rate) != args.learning_rate:
            progress.rate_factor = 1.0  # the new rate holds
        elif _schedule(progress.optimizer) != _schedule(self.engine.optimizer_record()):
            self._scale(progress.rate_factor)

    def _scale(self, factor: float) -> None:
        made = self.engine.made
        assert made is not None  # the model is prepared
        if factor != 1.0 and (problem := made.scale_rates(factor)):
            self._tell(f"the learning rates are to be multiplied by {factor:g}, but {problem}")

    def _roll_back(self, progress: Progress) -> None:
        """Restore all but the position, the random numbers and the callbacks from the newest checkpoint, if any."""
        progress.add_loss(*self.engine.train_step.take_loss())  # of updates that still wait, too
        self.checkpoints.committer.wait()
        saved = self._newest(progress)
        if saved is None:
            return
        self.engine.checkpoint.load_snapshot(saved.contents, saved.progress.optimizer, saved.state.global_step)
        self._scale(progress.rate_factor / saved.progress.rate_factor)
        self.dispatcher.send("on_load", checkpoint=str(saved.path), differences={})

    def _newest(self, progress: Progress) -> SavedRun | None:
        """Return the newest checkpoint of this run that can be gone back to; None without one."""
        args, nodes = self.dispatcher.args, self.checkpoints.nodes

        def find(last: float = math.inf) -> Any:
            last = min(last, progress.last_save)
            found, skipped = newest_valid(args.output_dir, self.checkpoints.run_id, last_step=last)
            tell(skipped)
            return found or self.resumed_from

        if nodes.are_apart:
            found = nodes.newest("the way back", find)
            found = found if found is None or found.is_dir() else self.resumed_from
        else:
            looks = self.dispatcher.state.is_world_process_zero
            found = self.engine.strategy.collectives.outcome("the way back", lambda: find() if looks else None)[0]
        saved = None if found is None else self.checkpoints.read(found)
        problem = None
        if saved is None:
            problem = "a checkpoint to go back to does not exist yet"
        elif not (saved.contents.names("optimizer") or saved.contents.names("shards")):
            problem = f"{found} was written with save_only_model"
        elif _schedule(saved.progress.optimizer) != _schedule(progress.optimizer):
            problem = f"{found} is of another schedule"
        if problem is not None:
            self._tell(f"{problem}: the weights stay as they are")
        return saved if problem is None else None

    def _tell(self, what: str) -> None:
        """Log a warning, once in a run."""
        if what not in self._told and self.dispatcher.state.is_world_process_zero:
            logger.warning("%s", what)
        self._told.add(what)


def steers_update(dispatcher: Dispatcher) -> bool:
    """Return whether a control callback or a plain listener is called when the gradients are complete."""
    receivers = dispatcher.receivers("on_pre_optimizer_step")
    return bool(receivers) and any(getattr(receiver, "may_steer", True) for receiver in receivers)


def _schedule(record: Any) -> Any:
    return (record or {}).get("schedule")
