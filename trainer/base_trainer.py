"""The shared base of both trainers: their constructor, entry points, callbacks and records."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trackside.callbacks.bus.dispatcher import OF_A_RUN, Dispatcher
from trackside.callbacks.errors import ArgumentError
from trackside.callbacks.state import TrainerControl, TrainerState

from .arguments.constructor import check_parts, resume_argument
from .arguments.validation import tell_unused
from .callback_setup import attach_from_arguments, check_attached_everywhere, update_context
from .calls import check_functions, takes_trial
from .checkpoint_manager import CheckpointManager
from .engine import Engine
from .evaluation.checks import check_compute_metrics
from .evaluation.evaluator import Evaluator
from .interface import TrainerInterface
from .loop import TrainingLoop
from .metrics_writer import MetricsWriter
from .optim.given import tell_replaced
from .optim.lr_schedules import follows_metric
from .outputs import BestRun, TrainOutput
from .overrides import Overrides
from .search.search import checked, search_hyperparameters
from .search.trial import Search, hyperparameters_of, varied
from .short_runs.dev_run import begin_dev_run, dev_run, leave_out_writers
from .stop_signals import StopSignals, pass_on

logger: logging.Logger = logging.getLogger("trackside")

KEPT_BETWEEN_RUNS = frozenset(
    {"is_local_process_zero", "is_world_process_zero", "is_hyper_param_search", "trial_name", "trial_params"}
    | {"run_id"}
)
"""Fields of the state that train() keeps."""

MADE_ANEW = frozenset(
    {"_checkpoints", "_dispatcher", "_engine", "_evaluator", "_listeners", "_overrides", "_search", "_writer"}
    | {"control", "lr_scheduler", "model_wrapped", "optimizer"}
)
"""Attributes of a trainer that a copy of it does not share: it makes its own, and plain listeners stay behind."""


class BaseTrainer(TrainerInterface):
    """A trainer without a framework; `trackside.Trainer` and `trackside.TFTrainer` create the engine.

    The reference documents the public methods of this class and of those two. Everything else is in a component: the
    engine (model, optimizer, step), the dispatcher (callbacks), the checkpoints, the evaluator, the writer.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        train_dataset: Any,
        eval_dataset: Any,
        compute_metrics: Callable[..., dict[str, Any]] | None,
        callbacks: Sequence[Any] | None,
        optimizers: tuple[Any, Any],
        loss_fn: Any,
        model_init: Callable[..., Any] | None,
    ) -> None:
        check_parts(callbacks, optimizers, model_init)
        if args.log_level != "passive":
            logger.setLevel(args.get_process_log_level())
        self.args: Any = args
        self.model_init = model_init
        self.model = model
        self.model_wrapped: Any = None
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.compute_metrics = compute_metrics
        self.loss_fn = loss_fn
        self.optimizer: Any = optimizers[0]
        self.lr_scheduler: Any = optimizers[1]
        self.state: TrainerState = TrainerState(
            is_local_process_zero=self.is_local_process_zero(), is_world_process_zero=self.is_world_process_zero()
        )
        check_functions(self)
        check_compute_metrics(compute_metrics, by_batch=args.batch_eval_metrics)
        self._assemble(lambda dispatcher: attach_from_arguments(dispatcher, args, callbacks or []))
        self._dispatcher.send("on_init_end")

    def _assemble(self, attach: Callable[[Dispatcher], Any]) -> None:
        """Create the components, and attach the callbacks."""
        self.control: TrainerControl = TrainerControl()
        self._search: Search | None = None
        self._overrides = Overrides(self)
        self._overrides.check()
        self._check_args()
        self._dispatcher = Dispatcher(self, self.args, self.state, self.control)
        attach(self._dispatcher)
        leave_out_writers(self._dispatcher, self.args)
        self._engine = self._make_engine()
        self._evaluator = Evaluator(self, self._engine, self._dispatcher, self._overrides)
        with self._evaluator.initializing():
            self._checkpoints = CheckpointManager(self, self._engine, self._dispatcher, self._overrides)
            self._writer = MetricsWriter(self, self._dispatcher)
            if self.model is None and self.model_init is not None:
                self._model = self._overrides.method("call_model_init")(None)
            self._check_model()
            self._engine.configure()
        update_context(
            self, self._dispatcher, train_dataloader=None, eval_dataloader=None, step_timer=self._engine.step_timer
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the constructor's arguments, with the callbacks attached now; a copy creates its own components."""
        kept = {name: value for name, value in vars(self).items() if name not in MADE_ANEW}
        callbacks = [(item.callback, item.options) for item in self.callback_report.values()]
        return {**kept, "callbacks": callbacks, "optimizers": self._engine.given.pair}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        callbacks = kept.pop("callbacks")
        self.optimizer, self.lr_scheduler = kept.pop("optimizers")
        vars(self).update(kept, model_wrapped=None)
        self.state.run_id = None  # a copy is another run
        self._assemble(lambda dispatcher: dispatcher.attach_all(callbacks))

    # -- implemented by a framework -----------------------------------------------------------------------------------

    @abstractmethod
    def _make_engine(self) -> Engine:
        """Return the engine, not yet configured."""

    # -- train ----------------------------------------------------------------------------------------------------

    def train(
        self, resume_from_checkpoint: str | Path | bool | None = None, trial: Any = None, **kwargs: Any
    ) -> TrainOutput:
        """Train, from the beginning or from a checkpoint.

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the newest valid one in ``args.output_dir``;
                without it, ``args.resume_from_checkpoint`` applies.
            trial: Hyperparameters to train with: a dict of training arguments by name, the BestRun of a search, or an
                optuna trial. ``args`` keep them afterwards; ``model_init`` gets the trial.

        A stop signal saves and stops the run. It is then passed on (KeyboardInterrupt, SystemExit), unless
        ``args.on_stop_signal`` is "return", or this call is inside another run, which passes it on.

        Raises:
            CheckpointError: If the checkpoint does not exist or does not verify.
            ArgumentError: If ``output_dir`` holds checkpoints of another run, and neither resuming nor overwriting is
                requested.
            BusyError: If this trainer is training, evaluating or predicting, in this thread or another one.
        """
        self._evaluator.occupation.check("train()")
        resume_from_checkpoint = resume_argument(resume_from_checkpoint, kwargs)
        if self.train_dataset is None and not self._overrides.any("get_train_dataloader", "get_train_tfdataset"):
            raise ArgumentError("train_dataset", None, "train() needs a training dataset")
        if trial is not None and self._search is None:
            self._apply_arguments(varied(self.args, hyperparameters_of(trial), self.model_init))
        if self._search is None:
            tell_unused(self.args)
            tell_replaced(self.args, None if self.state.global_step else self._engine.given.pair[0])
        tries = begin_dev_run(self, self._dispatcher)
        wanted = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        with self._evaluator.occupation.begin("train()"), self._engine.propagate_errors(), self._checkpoints.claimed():
            check_attached_everywhere(self._dispatcher, self._engine.strategy.collectives)
            output = dev_run(self, self._engine, self._train, trial) if tries else self._train(wanted, trial)
        pass_on(self.state.stopped_by, self.args.on_stop_signal)
        return output

    def _train(self, wanted: str | Path | bool | None, trial: Any) -> TrainOutput:
        checkpoint = self._checkpoints.locate(wanted)
        if self.model_init is not None:
            self._engine.set_seed(self.args.seed)
            self.model = self._overrides.method("call_model_init")(trial)
        self._check_model()
        check_functions(self)
        self._reset()
        best = self._checkpoints.best
        if best.is_metric_needed:
            best.check(self._evaluator.trial_metrics())
        loop = TrainingLoop(
            self,
            self._engine,
            self._dispatcher,
            self._checkpoints,
            self._evaluator,
            self._writer,
            checkpoint=checkpoint,
            note_metrics=self._note_metrics,
        )
        self._evaluator.show_batches()
        try:
            with self._evaluator.within_training():
                output = loop.run()
        finally:
            self._dispatcher.context.update(dict.fromkeys(OF_A_RUN))
        if self.state.stopped_by is None:
            self._checkpoints.earlier.remove(self._checkpoints.store)
        return output

    def _reset(self) -> None:
        """Reset state and control in place: callbacks and the dispatcher hold references to them."""
        for name, value in vars(TrainerState()).items():
            if name not in KEPT_BETWEEN_RUNS:
                setattr(self.state, name, value)
        self.control.update_from(TrainerControl())

    def _note_metrics(self, metrics: dict[str, float]) -> None:
        """Pass the metrics of a scheduled evaluation to the best model, the search, and a plateau schedule."""
        self._evaluator.tell_undefined(metrics)
        self._checkpoints.best.note(metrics)
        if self._search is not None:
            self._search.note(metrics)
        if follows_metric(self.lr_scheduler):
            value = self._checkpoints.best.value_of(self.args.metric_for_best_model or "loss", metrics)
            if value is not None:
                self.lr_scheduler.step(value)

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new model from ``model_init``, which takes a trial or nothing."""
        assert self.model_init is not None
        return self.model_init(trial) if takes_trial(self.model_init) else self.model_init()

    # -- search ---------------------------------------------------------------------------------------------------

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], Mapping[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str = "minimize",
        backend: str | None = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun:
        """Train once with each of several choices of hyperparameters; return the best.

        Each trial begins with a new model from ``model_init``, and has its own folder and its own tracker run.
        Evaluations within a trial are reported, so that an unpromising trial is pruned. A signal ends the search; with
        ``args.on_stop_signal="return"`` it returns the best trial so far. Afterwards the trainer has its original
        arguments again; ``train(trial=best)`` trains with the best hyperparameters.

        Args:
            hp_space: Called with a trial of the backend; returns training arguments by name, and any other values that
                ``model_init`` takes from the trial. The default varies learning rate, epochs, seed and batch size.
            compute_objective: Called with the metrics of an evaluation; returns a number. The default is the loss, or
                the sum of the other metrics if there are any.
            n_trials: Number of trials.
            direction: "minimize" or "maximize".
            backend: "optuna", or "ray" for Ray Tune; without it, the first that is installed.
            hp_name: Called with a trial of the backend; returns the name of its run and of its folder in
                ``output_dir``. The default is "run-" and the trial's number.
            kwargs: Options of the backend: of `optuna.create_study` (``storage``, ``sampler``, ``pruner``, ...) and
                `optuna.Study.optimize` (``timeout``, ...), or of `ray.tune.TuneConfig` and `ray.tune.RunConfig`, and
                ``resources_per_trial``.

        Raises:
            MissingPackageError: If the backend is not installed.
            ArgumentError: If an option or a proposed hyperparameter is not allowed.
            TracksideValueError: If no trial finished.
        """
        self._evaluator.occupation.check("hyperparameter_search()")
        if self.model_init is None:
            allowed = "a function for hyperparameter_search, which begins each trial with a new model"
            raise ArgumentError("model_init", None, allowed)
        self._check_evaluates("eval_dataset", None, "hyperparameter_search needs an evaluation dataset")
        begin = partial(self._begin_search, compute_objective=compute_objective, hp_name=hp_name)
        try:
            with self._engine.propagate_errors(), StopSignals():  # its trials do not pass a signal on
                best = search_hyperparameters(begin, hp_space, n_trials, direction, backend, kwargs)
        finally:
            if self._search is not None:
                self._search.end()
                self._search = None
        pass_on(self.state.stopped_by, self.args.on_stop_signal)
        return checked(best, n_trials)

    def _begin_search(self, hp_space: Any, compute_objective: Any, hp_name: Any) -> Search:
        """Return a search that trains with this trainer."""
        tell_unused(self.args)
        self._search = Search(self, self._apply_arguments, hp_space, compute_objective, hp_name)
        return self._search

    def _apply_arguments(self, args: Any) -> None:
        """Continue with other arguments, on the same processes and with the same callbacks."""
        self.args = self._dispatcher.args = args
        self._checkpoints.reopen()
        self._check_args()
        self._engine.configure()

    # -- checks ---------------------------------------------------------------------------------------------------

    def _check_args(self) -> None:
        if self.args.eval_strategy != "no":
            allowed = "'no', since the trainer was given no eval_dataset"
            self._check_evaluates("eval_strategy", str(self.args.eval_strategy), allowed)
        if self.loss_fn is not None:
            check_smoothing(self.args, "loss_fn")

    def _check_evaluates(self, field: str, value: Any, allowed: str) -> None:
        """Raise ArgumentError about ``field`` if there is no evaluation dataset."""
        own_sources = self._overrides.any("get_eval_dataloader", "get_eval_tfdataset", "evaluate")
        if self.eval_dataset is None and not own_sources:
            raise ArgumentError(field, value, allowed)


def check_smoothing(args: Any, loss: str) -> None:
    """Raise ArgumentError if label smoothing is requested with a user's own loss, which is not smoothed."""
    if args.label_smoothing_factor > 0:
        allowed = f"0 beside {loss}, which is taken as it is; smooth the labels there"
        raise ArgumentError("label_smoothing_factor", args.label_smoothing_factor, allowed)


def checkpoints_of(trainer: BaseTrainer) -> CheckpointManager:
    """Return the checkpoints of a trainer, for the command line."""
    return trainer._checkpoints
