"""The training loop, whole, for both frameworks.

Read it from top to bottom. `Backend` lists what a framework must be able to do; `TrainingLoop.run` is the run:
set up, epochs, updates, and after each update what the control flags ask for (log, evaluate, save, stop). Nothing here
waits for the device except a log, an evaluation and a save.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import TracksideValueError
from trackside.callbacks.state import TrainerControl, TrainerState

from .memory_metrics import MemoryWatch
from .outputs import TrainOutput, speed_metrics
from .progress import Progress, TrainingPlan, plan_training, windows
from .stop_signals import StopSignals


class Backend(Protocol):
    """What the loop needs of a trainer, in the order in which it is called."""

    args: Any
    state: TrainerState
    control: TrainerControl
    dispatcher: Dispatcher

    def watch_memory(self) -> MemoryWatch | None:
        """Return a watch over memory if ``args`` ask for one."""

    def prepare_data(self) -> int | None:
        """Build the source of training batches; return the micro-batches of one epoch on each process, if known."""

    def prepare_model(self, max_steps: int) -> None:
        """Place and wrap the model, create optimizer and schedule."""

    def restore(self, checkpoint: Path) -> Progress:
        """Take everything from a checkpoint but the state of the random number generators."""

    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators: from the checkpoint, or afresh from ``args.seed``."""

    def epoch_batches(self, epoch: int, skip_examples: int) -> Iterator[Any]:
        """Return the micro-batches of an epoch for this process, without its first ``skip_examples`` examples."""

    def count_examples(self, window: Sequence[Any]) -> int:
        """Return the examples in a window, counted over all processes."""

    def micro_step(self, batch: Any, index: int, count: int) -> None:
        """Take micro-batch ``index`` of the ``count`` of this update forward and backward."""

    def finish_gradients(self) -> Any:
        """Normalise, unscale and clip the gradients; return their norm before clipping, still on the device."""

    def optimizer_step(self) -> bool:
        """Step optimizer and schedule; return whether the loss scaler held the step back."""

    def clear_gradients(self) -> None:
        """Forget the gradients."""

    def fused_update(self, window: Sequence[Any]) -> bool:
        """Do a whole update in one call, unless none fits or somebody listens within updates; return whether it did."""

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all, each with the error that came first."""

    def agree(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first, and a stop signal that any of them got."""

    def take_loss(self) -> float:
        """Return the sum of the losses of the updates since the last call. Waits for the device."""

    def training_record(self) -> dict[str, float]:
        """Return what a log record holds besides the loss: gradient norm, learning rate. Waits for the device."""

    def log(self, logs: dict[str, float]) -> None:
        """Add a record to the history and send on_log."""

    def evaluate_in_training(self) -> None:
        """Evaluate, and note whether the model is the best so far."""

    def save_checkpoint(self, progress: Progress) -> None:
        """Save a checkpoint and send on_save."""

    def finish_saving(self) -> None:
        """Wait until every checkpoint is committed."""

    def settle_saving(self) -> None:
        """Wait until every checkpoint is committed, and report a failure without raising it."""

    def raise_if_saving_failed(self) -> None:
        """Raise the failure of a commit in the background, if there was one."""

    def store_flos(self) -> None:
        """Add the floating point operations since the last call to ``state.total_flos``."""

    def load_best_model(self) -> None:
        """Take the weights of the best checkpoint."""

    def report_costs(self, seconds: float) -> None:
        """Say which share of the run's ``seconds`` the callbacks took."""


class TrainingLoop:
    """One run of a trainer."""

    def __init__(self, trainer: Backend) -> None:
        self.trainer = trainer
        self.args = trainer.args
        self.state = trainer.state
        self.control = trainer.control
        self.send = trainer.dispatcher.send
        self.progress = Progress()
        self.plan: TrainingPlan
        self.signals = StopSignals()
        self.stopped_by: str | None = None

    def run(self, checkpoint: Path | None = None) -> TrainOutput:
        """Train until the last step, or until a callback, a signal or an exception ends it.

        Args:
            checkpoint: The folder to resume from.
        """
        self._set_up(checkpoint)
        send_to_all = self.trainer.dispatcher.send_to_all
        try:
            with self.signals, self.trainer.guarded():
                output = self._run(checkpoint)
        except BaseException as error:
            self.trainer.settle_saving()
            first = send_to_all("on_exception", exception=error)
            first = send_to_all("on_train_end") or first
            if first is not None:
                raise first from error
            raise
        first = send_to_all("on_train_end")
        if first is not None:
            raise first
        return output

    # -- set up ---------------------------------------------------------------------------------------------------

    def _set_up(self, checkpoint: Path | None) -> None:
        args, state = self.args, self.state
        self.plan = plan_training(
            batches_per_epoch=self.trainer.prepare_data(),
            accumulation_steps=args.gradient_accumulation_steps,
            num_train_epochs=args.num_train_epochs,
            max_steps=args.max_steps,
        )
        self.trainer.prepare_model(self.plan.max_steps)
        if checkpoint is not None:
            self.progress = self.trainer.restore(checkpoint)
        state.max_steps = self.plan.max_steps
        state.num_train_epochs = self.plan.num_train_epochs
        state.train_batch_size = args.per_device_train_batch_size
        for name in ("logging_steps", "eval_steps", "save_steps"):
            setattr(state, name, args.steps(name, self.plan.max_steps))
        state.stop_reason = None
        state.epoch = self._epoch()

    # -- the run --------------------------------------------------------------------------------------------------

    def _run(self, checkpoint: Path | None) -> TrainOutput:
        self.start_s = time.perf_counter()
        self.first_step = self.state.global_step
        memory = self.trainer.watch_memory()
        self.examples_seen = 0
        self.send("on_train_begin")
        self._agree()
        if self.args.eval_on_start and checkpoint is None:
            self._evaluate()
        self._resumed_from = checkpoint
        self._seeded = False
        while self.state.global_step < self.plan.max_steps and not self.control.should_training_stop:
            self._run_epoch()
        return self._finish(memory)

    def _run_epoch(self) -> None:
        progress, control = self.progress, self.control
        control.should_epoch_stop = False
        batches = self.trainer.epoch_batches(progress.epoch, progress.examples_in_epoch)
        self.send("on_epoch_begin")
        if not self._seeded:  # as late as possible: what a callback draws before must not shift the run's own numbers
            self.trainer.seed(self._resumed_from)
            self._seeded = True
        ended = True
        for window in windows(batches, self.args.gradient_accumulation_steps):
            self._run_update(window)
            self._act()
            if control.should_epoch_stop or control.should_training_stop:
                ended = control.should_epoch_stop
                break
        if ended and progress.batches_in_epoch == 0:
            raise TracksideValueError(f"epoch {progress.epoch} of train_dataset gave no batch")
        if ended or progress.batches_in_epoch == self.plan.batches_per_epoch:
            progress.next_epoch()
            self.state.epoch = self._epoch()
            self._end_with_epochs()
        self.send("on_epoch_end")
        self._agree()
        self._act()

    def _end_with_epochs(self) -> None:
        """End where the epochs are over though updates are left: some were cut short, and nobody asked for updates."""
        epochs = self.plan.num_train_epochs
        if self.args.max_steps <= 0 and self.progress.epoch >= epochs and self.state.global_step < self.plan.max_steps:
            self.control.stop(f"num_train_epochs={epochs} are over, some of them cut short")

    def _run_update(self, window: list[Any]) -> None:
        """One update: every micro-batch forward and backward, then the optimizer."""
        trainer, send = self.trainer, self.send
        send("on_step_begin")
        if not trainer.fused_update(window):
            for index, batch in enumerate(window):
                if index:
                    send("on_substep_end")
                trainer.micro_step(batch, index, len(window))
            grad_norm = trainer.finish_gradients()
            send("on_pre_optimizer_step", grad_norm=grad_norm)
            skipped = trainer.optimizer_step()
            send("on_optimizer_step", skipped=skipped)
            trainer.clear_gradients()
        self._count(window)
        trainer.raise_if_saving_failed()
        send("on_step_end")
        self._agree(after_update=True)

    def _count(self, window: list[Any]) -> None:
        progress = self.progress
        examples = self.trainer.count_examples(window)
        progress.batches_in_epoch += len(window)
        progress.examples_in_epoch += examples
        progress.pending_steps += 1
        self.examples_seen += examples
        self.state.global_step += 1
        self.state.epoch = self._epoch()

    def _epoch(self) -> float:
        return self.progress.epoch_with_fraction(self.plan, self.args.gradient_accumulation_steps)

    def _agree(self, *, after_update: bool = False) -> None:
        """Let all processes see the same flags, and turn a signal into a stop at the same step everywhere."""
        signal = self.trainer.agree(self.signals.received, after_update=after_update)
        if signal is not None and self.stopped_by is None:
            self.stopped_by = signal
        if signal is not None and self.state.stop_reason is None:
            self.control.stop(f"received {signal}")
            if self.args.save_strategy != "no":
                self.control.request("should_save", f"received {signal}")
        if self.control.should_training_stop:
            self.state.stop_reason = self.control.stop_reason

    # -- acting on the flags --------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Log, evaluate and save, as far as asked; each clears its flag first."""
        control = self.control
        if control.should_log:
            control.should_log = False
            self._log()
            self._agree()
        self._ask_for_last("evaluate")
        if control.should_evaluate:
            control.should_evaluate = False
            self._evaluate()
        self._ask_for_last("save")
        if control.should_save:
            control.should_save = False
            self._save()
            self._agree()

    def _ask_for_last(self, action: str) -> None:
        """Where training stops under a "steps" strategy, evaluate and save once more, unless just done."""
        control, step = self.control, self.state.global_step
        if not control.should_training_stop:
            return
        if action == "save" and self.args.save_strategy == "steps" and self.progress.last_save != step:
            control.request("should_save", "training stops")
        if action == "evaluate" and self.args.eval_strategy == "steps" and self.progress.last_evaluation != step:
            control.should_evaluate = False
            if self.stopped_by is None:
                control.request("should_evaluate", "training stops")

    def _log(self) -> None:
        progress = self.progress
        progress.pending_loss += self.trainer.take_loss()
        if progress.pending_steps == 0:
            return
        loss = progress.pending_loss / progress.pending_steps
        progress.total_loss += progress.pending_loss
        progress.pending_loss, progress.pending_steps = 0.0, 0
        self.trainer.log({"loss": loss, **self.trainer.training_record()})

    def _evaluate(self) -> None:
        self.progress.last_evaluation = self.state.global_step
        self.trainer.evaluate_in_training()
        self._agree()

    def _save(self) -> None:
        self.progress.last_save = self.state.global_step
        self.progress.pending_loss += self.trainer.take_loss()
        self.trainer.save_checkpoint(self.progress)

    # -- the end --------------------------------------------------------------------------------------------------

    def _finish(self, memory: MemoryWatch | None) -> TrainOutput:
        state, progress = self.state, self.progress
        self.trainer.finish_saving()
        self.trainer.store_flos()
        if self.args.load_best_model_at_end:
            self.trainer.load_best_model()
        progress.pending_loss += self.trainer.take_loss()
        loss = (progress.total_loss + progress.pending_loss) / max(state.global_step, 1)
        seconds = time.perf_counter() - self.start_s
        metrics = speed_metrics("train", seconds, self.examples_seen, state.global_step - self.first_step)
        metrics |= {"train_loss": loss, "total_flos": state.total_flos}
        metrics |= memory.stop("train") if memory else {}
        self.trainer.log(dict(metrics))
        self.trainer.report_costs(seconds)
        return TrainOutput(state.global_step, loss, metrics)
