"""Training loop of both frameworks.

Read this file from top to bottom. `TrainingLoop.run` is the complete run: set-up, epochs, updates, and after each
update the actions that the control flags request (log, evaluate, save, stop). `trackside.trainer.engine` defines the
operations of a framework. Only a log, an evaluation and a save wait for the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trackside.callbacks.builtin.default_flow import DefaultFlowCallback
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.bus.receiver import first_error
from trackside.callbacks.errors import TracksideValueError
from trackside.callbacks.state import TrainerControl, TrainerState

from .arguments.within_run import ArgumentsOfRun
from .checkpoint_manager import CheckpointManager
from .checkpointing.position import Division, go_to_resized, plan_run
from .checkpointing.rehearsal import rehearse
from .engine import Engine
from .evaluation.checks import metrics_in
from .evaluation.evaluator import Evaluator
from .measuring.current_epoch import CurrentEpoch
from .measuring.header import run_header
from .measuring.loss_watch import LossWatch
from .measuring.memory import MemoryWatch
from .metrics_writer import MetricsWriter
from .outputs import TrainOutput, speed_metrics
from .progress import Progress, TrainingPlan, is_cut_short, show_plan, windows
from .recovery import Recovery
from .stop_signals import EvaluationStopped, StopSignals, answer
from .train_step import StepContext, TrainStep


class TrainingLoop:
    """One run of a trainer.

    Args:
        trainer: Its public methods ``log``, ``evaluate`` and ``store_flos`` are called, overridden or not.
        engine: The framework-specific part of the trainer.
        dispatcher: Sends the events.
        checkpoints: Saves and restores checkpoints.
        evaluator: Ends a scheduled evaluation when a signal arrives; watches the memory.
        writer: Reports at the end what callbacks have cost.
        checkpoint: The folder to resume from; None for a fresh start.
        note_metrics: Called with the metrics of every scheduled evaluation.
    """

    def __init__(
        self,
        trainer: Any,
        engine: Engine,
        dispatcher: Dispatcher,
        checkpoints: CheckpointManager,
        evaluator: Evaluator,
        writer: MetricsWriter,
        *,
        checkpoint: Path | None,
        note_metrics: Callable[[dict[str, float]], None],
    ) -> None:
        self.trainer = trainer
        self.engine = engine
        self.step: TrainStep = engine.train_step
        self.dispatcher = dispatcher
        self.checkpoints = checkpoints
        self.evaluator, self.writer = evaluator, writer
        self.note_metrics = note_metrics
        self.args: Any = trainer.args
        self.args_at_start: ArgumentsOfRun = ArgumentsOfRun(trainer.args)
        self.state: TrainerState = trainer.state
        self.control: TrainerControl = trainer.control
        self.send: Callable[..., Any] = dispatcher.send
        self.flow: DefaultFlowCallback = DefaultFlowCallback()  # not attached: it cannot be removed or muted
        self.losses: LossWatch = LossWatch(self.step, dispatcher, is_shared=trainer.args.world_size > 1)
        self.progress: Progress = Progress()
        self.current_epoch = dispatcher.context["current_epoch"] = CurrentEpoch(self)
        self.checkpoint = checkpoint
        self.recovery = Recovery(engine, dispatcher, checkpoints, checkpoint)
        self.plan: TrainingPlan = TrainingPlan(max_steps=0, num_train_epochs=0, batches_per_epoch=None)
        self.signals: StopSignals = StopSignals(answer(self.args) if self.state.is_world_process_zero else None)
        self.first_step, self.examples_seen, self._is_seeded, self._has_new_seed = 0, 0, False, False

    def run(self) -> TrainOutput:
        """Train until the last step, or until a callback, a signal or an exception ends it."""
        self._set_up()
        send_to_all = self.dispatcher.send_to_all
        try:
            with self.signals, self.engine.propagate_errors():
                output = self._run()
            self.state.stopped_by = self.state.stopped_by or self.signals.received
        except BaseException as error:
            first = first_error((self.step.end_run, self.checkpoints.settle))
            first = send_to_all("on_exception", exception=error) or first
            first = send_to_all("on_train_end") or first
            self.checkpoints.close()
            if isinstance(first, Exception):
                raise first from error
            if first is not None:  # such as SystemExit, which would hide the error that ended training
                error.add_note(f"then a callback raised {first!r}")
            raise
        first = send_to_all("on_train_end")
        self.checkpoints.close()
        if first is not None:
            raise first
        return output

    def _set_up(self) -> None:
        args, state = self.args, self.state
        saved = None if self.checkpoint is None else self.checkpoints.read(self.checkpoint)
        self.plan, self.progress, division = plan_run(args, self.engine, saved)
        self.engine.prepare_model(self.plan.max_steps)
        if saved is not None:
            self.checkpoints.restore(saved, division.differences(self.progress.division or {}))
            self.recovery.resume(saved)
            self._has_new_seed = saved.args.get("seed", args.seed) != args.seed
        self.progress.optimizer, self.progress.division = self.engine.optimizer_record(), division.to_dict()
        show_plan(self.plan, args, state)
        self.first_step, state.train_batch_size = state.global_step, args.per_device_train_batch_size
        state.stop_reason, state.stopped_by, state.epoch = None, None, self._epoch()
        rehearse(self.checkpoints)
        self.dispatcher.context["header"] = run_header(self.trainer, self.engine, self.plan, self.dispatcher)

    # -- the run --------------------------------------------------------------------------------------------------

    def _run(self) -> TrainOutput:
        start_s, memory = time.perf_counter(), self.evaluator.watch_memory()
        self.send("on_train_begin")
        self.args_at_start.take_late()
        self.checkpoints.begin_run()
        self._sync_control()
        if self.progress.evaluation_is_due or (self.args.eval_on_start and self.checkpoint is None):
            self.engine.seed(None if self._has_new_seed else self.checkpoint)  # which a save after it replaces
            self.control.should_evaluate = True
            self._act()
        while not self.control.should_training_stop and self.progress.goes_on(self.state.global_step, self.plan):
            self._run_epoch()
        return self._finish(start_s, memory)

    def _run_epoch(self) -> None:
        progress, control = self.progress, self.control
        control.should_epoch_stop, progress.is_in_epoch = False, True
        batches = self.engine.epoch_batches(progress)
        self.send("on_epoch_begin")
        if progress.batches_in_epoch != self.plan.batches_per_epoch and self._take_changed_data():
            batches = self.engine.epoch_batches(progress)
        if not self._is_seeded:  # late, so that random numbers drawn by callbacks do not shift the run's own
            self.engine.seed(None if self._has_new_seed else self.checkpoint)
            self._is_seeded = True
        ended = self.state.global_step < self.state.max_steps  # else only the end of the epoch is due
        for window in windows(batches if ended else iter(()), self.args.gradient_accumulation_steps):
            self._run_update(window)
            self._act()
            if control.should_epoch_stop or self._is_over:
                ended = control.should_epoch_stop
                break
        if ended and progress.batches_in_epoch == 0:
            raise TracksideValueError(f"epoch {progress.epoch} of train_dataset gave no batch")
        if ended or progress.batches_in_epoch == self.plan.batches_per_epoch:
            progress.next_epoch()
            self.state.epoch = self._epoch()
            if is_cut_short(self.plan, progress.epoch, self.args.max_steps, self.state.global_step):
                control.stop(f"num_train_epochs={self.plan.num_train_epochs} are over, some of them cut short")
        progress.is_in_epoch = False
        self.flow.on_epoch_end(self.args, self.state, control)
        self.send("on_epoch_end")
        self._sync_control()
        self._act()

    def _take_changed_data(self) -> bool:
        """Plan the run anew if on_epoch_begin changed the size of the data; return whether it changed the data."""
        engine, progress, step = self.engine, self.progress, self.state.global_step
        is_changed, batches = engine.refresh_data(progress.epoch)
        if batches is not None and batches != self.plan.batches_per_epoch:
            division = Division.of(self.args, engine.describe_data(), batches)
            self.plan = go_to_resized(self.args, progress, division, self.plan, step, engine.batches_used(progress))
            engine.reschedule(self.plan.max_steps, step)
            progress.optimizer = engine.optimizer_record()
            show_plan(self.plan, self.args, self.state)
        return is_changed

    def _run_update(self, window: list[Any]) -> None:
        """Do one update: forward and backward pass of every micro-batch, then the optimizer step."""
        step, send = self.step, self.send
        send("on_step_begin")
        self.current_epoch.expect(window)
        if not step.fused_update(window):
            self.recovery.begin_update()
            for index, batch in enumerate(window):
                if index:
                    send("on_substep_end")
                step.micro_step(batch, StepContext(index, len(window)))
            grad_norm = step.finish_gradients()
            send("on_pre_optimizer_step", grad_norm=grad_norm, loss=self.recovery.loss)
            skipped = self.recovery.skips(self.signals.received) or step.optimizer_step()
            send("on_optimizer_step", skipped=skipped)
            step.end_update(skipped)
        self._count(window)
        self.checkpoints.committer.raise_if_failed()
        self.losses.look(self.state.global_step)
        self.flow.on_step_end(self.args, self.state, self.control)
        send("on_step_end")
        self._sync_control(after_update=True)

    def _count(self, window: list[Any]) -> None:
        progress = self.progress
        examples = self.engine.count_examples(window)
        progress.batches_in_epoch += len(window)
        progress.examples_in_epoch += examples
        progress.pending_steps += 1
        self.examples_seen += examples
        self.state.global_step += 1
        self.state.epoch = self._epoch()

    def _epoch(self) -> float:
        return self.progress.epoch_with_fraction(self.plan, self.args.gradient_accumulation_steps)

    @property
    def _is_over(self) -> bool:
        """Whether training ends here, whatever callbacks have made of the flag after the last step."""
        return self.control.should_training_stop or self.state.global_step >= self.state.max_steps

    def _sync_control(self, *, after_update: bool = False) -> None:
        """Give all processes the same flags, and turn a signal into a stop at the same step on all of them."""
        signal = self.engine.sync_control(self.signals.received, after_update=after_update)
        if signal is not None and self.state.stopped_by is None:
            self.state.stopped_by = signal
            self.control.stop(f"received {signal}")
            if self.args.save_strategy != "no":
                self.control.request("should_save", f"received {signal}")
        if self.control.should_training_stop:
            self.state.stop_reason = self.control.stop_reason

    # -- acting on the flags --------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Recover, log, evaluate and save as the flags request; each action clears its flag first.

        After a stop signal, the run saves without evaluating; an evaluation that was due is the first thing on resume.
        """
        control, progress = self.control, self.progress
        if self.state.stopped_by is not None and progress.last_save == self.state.global_step:
            control.should_evaluate = control.should_save = False
        if self.recovery.act(progress):
            self._sync_control()
        if not (control.should_log or control.should_evaluate or control.should_save or self._is_over):
            return
        self.args_at_start.tell_changes()
        self._ask_for_last("log", self.args.logging_strategy)
        if control.should_log:
            control.should_log = False
            self._log()
            self._sync_control()
        self._ask_for_last("evaluate", self.args.eval_strategy)
        if control.should_evaluate:
            control.should_evaluate = False
            progress.evaluation_is_due = True
            if self.state.stopped_by is None:
                self._evaluate()
        self._ask_for_last("save", self.args.save_strategy)
        if control.should_save:
            control.should_save = False
            self._save()
            self._sync_control()

    def _ask_for_last(self, action: str, strategy: str) -> None:
        """Request what is owed when training stops under a "steps" strategy; after a stop signal, a save only."""
        if not self._is_over or strategy != "steps":
            return
        flag, is_wanted = f"should_{action}", action == "save" or self.state.stopped_by is None
        if is_wanted and not getattr(self.control, flag) and self.progress.owes(action, self.state):
            self.control.request(flag, "training stops")

    def _log(self) -> None:
        self.progress.follow(self.step)
        if (loss := self.progress.take_mean_loss()) is None:
            return
        record = {"loss": loss, **self.progress.last_record}
        self.trainer.log({**record, **self.dispatcher.logged_metrics(record, used_groups=self.progress.last_groups)})

    def _evaluate(self) -> None:
        self.send("on_evaluate_begin")
        with suppress(EvaluationStopped):
            with self.evaluator.stop_at(self.signals):
                metrics = metrics_in(self.trainer.evaluate(), self.trainer)
            self.send("on_evaluate", metrics=metrics, scheduled=True)
            self.progress.last_evaluation, self.progress.evaluation_is_due = self.state.global_step, False
            self.note_metrics(metrics)
        self._sync_control()

    def _save(self) -> None:
        self.progress.last_save = self.state.global_step
        self.current_epoch.settle()
        self.progress.follow(self.step)
        self.trainer.store_flos()
        self.checkpoints.save(self.progress, self.args_at_start)

    # -- the end --------------------------------------------------------------------------------------------------

    def _finish(self, start_s: float, memory: MemoryWatch | None) -> TrainOutput:
        state, progress = self.state, self.progress
        self.checkpoints.finish()
        self.trainer.store_flos()
        self.step.end_run()
        if self.args.load_best_model_at_end:
            self.checkpoints.best.load()
        progress.add_loss(*self.step.take_loss())
        loss = progress.loss_of_run(state.global_step)
        self.writer.tell_of_nothing(loss, state.global_step, progress.empty_steps)
        seconds = time.perf_counter() - start_s
        metrics = speed_metrics("train", seconds, self.examples_seen, state.global_step - self.first_step)
        metrics |= {"train_loss": loss, "total_flos": state.total_flos, **(memory.stop("train") if memory else {})}
        self.trainer.log(dict(metrics))
        self.writer.report_costs(seconds)
        return TrainOutput(state.global_step, loss, {**metrics, "epoch": self._epoch()})
