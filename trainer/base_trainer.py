"""What both trainers are: the callbacks, the entry points train, evaluate and predict, and the records they leave."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.errors import ArgumentError, TracksideTypeError, UnknownMetricError, did_you_mean
from trackside.callbacks.state import TrainerControl, TrainerState

from .callback_setup import Attaching, check_attached_everywhere
from .checkpointing.best_model import BestModel, HasBest, metric_key
from .checkpointing.manager import Notes, Saver, Saves
from .evaluation.evaluator import Predicting, check_compute_metrics
from .loop import Backend, TrainingLoop
from .metrics_writer import Records
from .outputs import TrainOutput
from .progress import Progress
from .search.search import Searching
from .search.trial import hyperparameters_of, takes_trial, varied
from .step_timer import StepTimer

logger = logging.getLogger("trackside")

EVALUATION_SOURCES = ("get_eval_dataloader", "get_eval_tfdataset", "evaluate")
"""Methods by which a subclass may bring its own evaluation data."""


class BaseTrainer(Attaching, Records, Predicting, Searching, Saves, HasBest, Backend, ABC):
    """A trainer without a framework; `trackside.Trainer` and `trackside.TFTrainer` fill in the backend's methods.

    Attributes:
        made_of: Its class and what that was called with, by which another process can make one like it.
    """

    made_of: tuple[type, tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **options: Any) -> Any:
        """Make a trainer that knows what it is made of."""
        made = super().__new__(cls)
        made.made_of = (cls, args, options)
        return made

    def __init__(
        self,
        *,
        model: Any,
        args: Any,
        train_dataset: Any,
        eval_dataset: Any,
        compute_metrics: Callable[..., dict[str, Any]] | None,
        callbacks: Sequence[Any] | None,
        loss_fn: Callable[..., Any] | None,
        model_init: Callable[..., Any] | None,
    ) -> None:
        if args.log_level != "passive":
            logger.setLevel(args.get_process_log_level())
        self.args = args
        self.model = model
        self.model_init = model_init
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.compute_metrics = compute_metrics
        self.loss_fn = loss_fn
        self.optimizer: Any = None
        self.lr_scheduler: Any = None
        self.processing_class: Any = None
        self.state = TrainerState(
            is_local_process_zero=self.is_local_process_zero(), is_world_process_zero=self.is_world_process_zero()
        )
        self.control = TrainerControl()
        self.dispatcher = Dispatcher(self, args, self.state, self.control)
        self.saver = Saver(self)
        self.step_timer = StepTimer()
        self.best = BestModel(self)
        self._check_args()
        check_compute_metrics(compute_metrics, by_batch=args.batch_eval_metrics)
        self._attach_callbacks(callbacks or [])
        self._update_context()

    # -- train ----------------------------------------------------------------------------------------------------

    def train(
        self, resume_from_checkpoint: str | Path | bool | None = None, trial: Any = None, **kwargs: Any
    ) -> TrainOutput:
        """Train, from the beginning or from a checkpoint.

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the newest valid one in ``args.output_dir``;
                without it, ``args.resume_from_checkpoint`` counts.
            trial: Hyperparameters to train with: a dict of training arguments by name, the BestRun of a search, or a
                trial of optuna's. ``args`` have them from then on; ``model_init`` gets the trial.

        Raises:
            CheckpointError: If the checkpoint is not there or does not verify.
            ArgumentError: If ``output_dir`` holds checkpoints of another run, and neither resuming nor overwriting
                was asked for.
        """
        if "model_path" in kwargs:
            resume_from_checkpoint = _deprecated_model_path(kwargs.pop("model_path"), resume_from_checkpoint)
        if kwargs:
            raise TracksideTypeError(
                f"train() has no argument {next(iter(kwargs))!r}."
                f"{did_you_mean(next(iter(kwargs)), ['resume_from_checkpoint', 'trial'])}"
            )
        if self.train_dataset is None and not self.has_own("get_train_dataloader", "get_train_tfdataset"):
            raise ArgumentError("train_dataset", None, "train() needs a training dataset")
        if trial is not None and self.search is None:
            self.take_args(varied(self.args, hyperparameters_of(trial), self.model_init))
        wanted = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        with self.guarded():
            check_attached_everywhere(self)
            return self._train(wanted, trial)

    def _train(self, wanted: str | Path | bool | None, trial: Any) -> TrainOutput:
        checkpoint = self.saver.locate(wanted) if self.is_world_process_zero() else None
        checkpoint = self.collectives.gather("the checkpoint to resume from", checkpoint)[0]
        if self.model_init is not None:
            self.set_seed(self.args.seed)
            self.model = self.call_model_init(trial)
        self._reset()
        if self.best.is_metric_needed:
            self.best.check(self._trial_metrics())
        return TrainingLoop(self).run(checkpoint)

    def guarded(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all, each with the error that came first."""
        return nullcontext()

    def job_notes(self) -> Notes | None:
        """Return what outlives the processes of a job that is started again; None where nothing does."""
        return None

    def write_share(self) -> None:
        """Write what this process adds to the checkpoint that the first one is writing: nothing, where that has all."""

    def _reset(self) -> None:
        """Put state and control back to the beginning, in place: callbacks and the dispatcher hold on to them."""
        kept = {"is_local_process_zero", "is_world_process_zero", "is_hyper_param_search", "trial_name", "trial_params"}
        fresh = TrainerState()
        for name, value in vars(fresh).items():
            if name not in kept:
                setattr(self.state, name, value)
        self.control.take(TrainerControl())

    def call_model_init(self, trial: Any = None) -> Any:
        """Return a new model from ``model_init``, which takes a trial or nothing."""
        assert self.model_init is not None
        return self.model_init(trial) if takes_trial(self.model_init) else self.model_init()

    def restore(self, checkpoint: Path) -> Progress:
        """Take everything from a checkpoint but the state of the random number generators."""
        return self.saver.restore(checkpoint)

    def save_checkpoint(self, progress: Progress) -> None:
        """Save a checkpoint and send on_save."""
        self.store_flos()
        self.saver.save(progress)

    def finish_saving(self) -> None:
        """Wait until every checkpoint is committed."""
        self.saver.committer.wait()

    def settle_saving(self) -> None:
        """Wait until every checkpoint is committed, and report a failure without raising it."""
        self.saver.settle()

    def raise_if_saving_failed(self) -> None:
        """Raise the failure of a commit in the background, if there was one."""
        self.saver.committer.raise_if_failed()

    def load_best_model(self) -> None:
        """Take the weights of the best checkpoint."""
        self.best.load()

    def evaluate_in_training(self) -> None:
        """Evaluate, note whether the model is the best so far, and tell a schedule that follows a metric."""
        metrics = self.evaluate()
        self.best.note(metrics)
        if self.search is not None:
            self.search.note(metrics)
        if self._follows_metric():
            name = self.args.metric_for_best_model or "loss"
            if metric_key(name) not in metrics:
                raise UnknownMetricError("metric_for_best_model", name, metrics)
            self.lr_scheduler.step(metrics[metric_key(name)])

    def take_args(self, args: Any) -> None:
        """Go on with other arguments, on the same processes and with the same callbacks."""
        self.args = self.dispatcher.args = args
        self.saver.reopen()
        self._check_args()
        self._set_up_step()

    # -- what else there is to know -------------------------------------------------------------------------------

    def is_local_process_zero(self) -> bool:
        """Return whether this is the first process of its machine."""
        return bool(self.args.local_process_index == 0)

    def is_world_process_zero(self) -> bool:
        """Return whether this is the first process of all."""
        return bool(self.args.process_index == 0)

    def has_own(self, *names: str) -> bool:
        """Return whether a subclass overrides one of these methods."""
        return any(
            hasattr(type(self), name) and not getattr(type(self), name).__module__.startswith("trackside.trainer")
            for name in names
        )

    def check_smoothing(self, loss: str) -> None:
        """Raise ArgumentError if label smoothing is asked for beside a loss of the user's own, which nobody smooths."""
        if self.args.label_smoothing_factor > 0:
            allowed = f"0 beside {loss}, which is taken as it is; smooth the labels there"
            raise ArgumentError("label_smoothing_factor", self.args.label_smoothing_factor, allowed)

    def check_evaluates(self, field: str, value: Any, allowed: str) -> None:
        """Raise ArgumentError about ``field`` if there is nothing to evaluate on."""
        if self.eval_dataset is None and not self.has_own(*EVALUATION_SOURCES):
            raise ArgumentError(field, value, allowed)

    def _check_args(self) -> None:
        if self.args.eval_strategy != "no":
            allowed = "'no', since the trainer was given no eval_dataset"
            self.check_evaluates("eval_strategy", str(self.args.eval_strategy), allowed)
        if self.loss_fn is not None:
            self.check_smoothing("loss_fn")

    @abstractmethod
    def _follows_metric(self) -> bool:
        """Return whether the schedule waits for a metric, rather than for steps."""

    @abstractmethod
    def _set_up_step(self) -> None:
        """Set up what the step needs to know of ``args``."""

    @abstractmethod
    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""


def check_args(args: Any, wanted: type) -> None:
    """Raise TracksideTypeError if ``args`` are those of another framework, or none."""
    if not isinstance(args, wanted):
        raise TracksideTypeError(f"args needs {wanted.__name__}; it got {type(args).__name__}")


def _deprecated_model_path(path: Any, resume_from_checkpoint: Any) -> Any:
    warnings.warn("train(model_path=...) is deprecated; use resume_from_checkpoint", FutureWarning, stacklevel=3)
    return path if resume_from_checkpoint is None else resume_from_checkpoint
