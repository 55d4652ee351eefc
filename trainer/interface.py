"""Public interface of a trainer besides training: evaluation, callbacks, log records and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackside.callbacks._util.display import Report, short_repr
from trackside.callbacks.bus.attachment import Attachment
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.bus.report import CallbackReport
from trackside.callbacks.events import EventName, Function, signal_named
from trackside.callbacks.state import TrainerControl, TrainerState

from .callback_setup import update_context
from .calls import check_functions
from .checkpoint_manager import CheckpointManager
from .engine import Engine
from .evaluation.evaluator import Evaluator
from .measuring.header import short_text
from .metrics_writer import MetricsWriter
from .outputs import EvalLoopOutput, PredictionOutput
from .overrides import Overrides
from .short_runs.batch_finder import find_batch_size
from .short_runs.rate_finder import RateSearch, find_learning_rate
from .staging import is_address


class TrainerInterface(ABC):
    """The methods of a trainer besides training; each calls the component that does the work.

    Attributes:
        args: The training arguments.
        model: The model, without the wrapper for several processes, which is ``model_wrapped``.
        optimizer, lr_scheduler: The optimizer and the schedule; None until train() creates them, unless given. One that
            is set before train() is that of the runs from then on; None has train() create it.
        state, control: The run's state and control flags, shared with every callback.
    """

    args: Any
    model: Any
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any
    processing_class: Any
    state: TrainerState
    control: TrainerControl
    _checkpoints: CheckpointManager
    _dispatcher: Dispatcher
    _engine: Engine
    _evaluator: Evaluator
    _overrides: Overrides
    _writer: MetricsWriter

    __repr__ = short_repr(short_text)

    if not TYPE_CHECKING:  # `Trainer` declares the type of its model

        @property
        def model(self) -> Any:
            """The model. Another one, or None, takes its place with all that belongs to it, unless in a run."""
            return self._model

        @model.setter
        def model(self, model: Any) -> None:
            before, self._model = vars(self).get("_model"), model
            if "_writer" in vars(self) and model is not before and not self._evaluator.is_training:
                if model is not None:
                    self._check_model()
                self._engine.replace_model()
                update_context(self, self._dispatcher, train_dataloader=None, eval_dataloader=None)

        @model.deleter
        def model(self) -> None:
            self.model = None

    @abstractmethod
    def _check_model(self) -> None:
        """Raise TracksideTypeError if the model is missing or does not belong to this framework."""

    # -- evaluate and predict -------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the metrics on ``eval_dataset``, or on the trainer's dataset; log them, and send the events.

        Args:
            eval_dataset: A dataset, or a dict of datasets, whose names become part of the metrics' names.
            ignore_keys: Outputs of the model to leave out of the predictions.
            metric_key_prefix: Prefix of every metric's name.
        """
        self._check_model()
        check_functions(self)
        return self._evaluator.evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Return predictions, labels and metrics on ``test_dataset``; send on_predict_begin and on_predict."""
        self._check_model()
        check_functions(self)
        return self._evaluator.predict(test_dataset, ignore_keys, metric_key_prefix)

    def prediction_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> PredictionOutput:
        """Return predictions, labels and metrics over the batches of ``dataloader``, without speed metrics."""
        return self._evaluator.prediction_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Return what `prediction_loop` does, and the number of examples; evaluate() and predict() call an override."""
        output = self.prediction_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        return EvalLoopOutput(*output, num_samples=self._evaluator.examples)

    def num_examples(self, dataloader: Any) -> int:
        """Return the number of examples in ``dataloader``, over all processes; 0 if it is unknown."""
        return self._engine.evaluation.num_examples(dataloader) or 0

    # -- optimizer and schedule -----------------------------------------------------------------------------------

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Create the optimizer and the schedule unless they exist; overrides may set or return them."""
        made = self.create_optimizer()
        self.optimizer = made if self.optimizer is None else self.optimizer
        made = self._overrides.method("create_scheduler")(num_training_steps, self.optimizer)
        self.lr_scheduler = made if self.lr_scheduler is None else self.lr_scheduler

    @abstractmethod
    def create_optimizer(self) -> Any:
        """Create the optimizer, unless it exists, and return it."""

    @abstractmethod
    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule, unless it exists, and return it."""

    def find_learning_rate(
        self, min_rate: float = 1e-7, max_rate: float = 1.0, steps: int = 100, picture: str | Path | None = None
    ) -> RateSearch:
        """Return what a short run with a rising learning rate finds, from each update's rate and loss.

        The run is that of a copy of this trainer without callbacks, on the same model and data, with the optimizer of
        the arguments or a copy of the one that was given. Afterwards weights, optimizer, state and random numbers are
        bit for bit what they were. It ends early when the loss has grown to four times the lowest.

        Args:
            min_rate: The rate of the first update.
            max_rate: The rate of the last update.
            steps: Number of updates.
            picture: File for a picture of the losses over the rates; needs matplotlib.

        Raises:
            ArgumentError: If a value is not allowed, or the training dataset is missing.
            UnsupportedError: On several processes or devices.
        """
        self._check_model()
        with self._evaluator.occupation.begin("find_learning_rate()"):
            found = find_learning_rate(self, self._engine, min_rate, max_rate, steps)
        if picture is not None:
            found.draw(picture)
        return found

    def find_batch_size(self, max_size: int = 1 << 16) -> int:
        """Return the largest micro-batch of a device that fits into memory, for ``per_device_train_batch_size``.

        It is the present one doubled, or halved, as often as needed. Each is tried with two updates of a copy of this
        trainer, as in `find_learning_rate`, and everything is afterwards as it was. Memory of the host is not bounded:
        without an accelerator, give a ``max_size``.

        Args:
            max_size: The largest size to try.

        Raises:
            ArgumentError: If ``max_size`` is not allowed, or the training dataset is missing.
            UnsupportedError: On several processes or devices.
            TracksideValueError: If not even one example fits.
        """
        self._check_model()
        with self._evaluator.occupation.begin("find_batch_size()"):
            return find_batch_size(self, self._engine, max_size)

    def model_summary(self) -> str:
        """Return the layers of the model and their numbers of weights: by torchinfo if it is installed, or by Keras."""
        self._check_model()
        return Report(self._engine.sandbox.summary())

    # -- callbacks ------------------------------------------------------------------------------------------------

    def add_callback(self, callback: Any, **options: Any) -> Attachment:
        """Attach a callback, given as an instance or a class.

        Args:
            callback: Any object with ``on_*`` methods.
            options: See `trackside.callbacks.bus.attachment.AttachOptions`.
        """
        return self._dispatcher.attach(callback, **options)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback, given as class, instance or name, and return it; None if it is not attached."""
        return self._dispatcher.remove(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, given as class, instance or name."""
        self._dispatcher.remove(callback)

    def on(self, event: EventName, *, every: int = 1) -> Callable[[Function], Function]:
        """Return a decorator that connects a plain function to an event of this trainer.

        The function is called as ``fn(trainer, args=..., state=..., control=..., **kwargs)``, with the keywords of a
        callback's method; one without ``**kwargs`` gets of all these what it has parameters for.

        Args:
            event: Name of the event.
            every: Call the function only at steps that are multiples of this number.

        Raises:
            UnknownNameError: If the event does not exist.
            TracksideTypeError: If the function cannot be called like this.
        """
        return partial(signal_named(event).connect, sender=self, every=every)

    @property
    def callback_report(self) -> CallbackReport:
        """Time and number of failures of each callback, by name in the order of the calls; printed, it is a table."""
        return CallbackReport(self._dispatcher.attachments)

    # -- records --------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add ``logs``, with the epoch and the step, to the history and send on_log."""
        self._writer.log(logs)

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print metrics as a table, on the first process only."""
        self._writer.print_metrics(split, metrics)

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write metrics to ``{split}_results.json``, and add them to ``all_results.json`` if ``combined``."""
        self._writer.save_metrics(split, metrics, combined=combined)
        self._upload_files()

    def save_state(self) -> None:
        """Write the state to ``output_dir/trainer_state.json``."""
        self._writer.save_state()
        self._upload_files()

    # -- weights --------------------------------------------------------------------------------------------------

    def load_weights(self, folder: str | Path) -> None:
        """Load only the weights from a checkpoint.

        Raises:
            CheckpointError: If there are no weights, or they do not fit the model.
        """
        self._checkpoints.load_weights(folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights and the other files of the model into ``output_dir``, where ``args.should_save``.

        A checkpoint contains the files that an override writes; if they do not include weights, the model's are added.
        """
        write = self._engine.checkpoint.save_model
        if output_dir is not None and is_address(output_dir):
            self._checkpoints.remote.write_to(output_dir, write, uploads=self.is_world_process_zero())
            return
        write(output_dir)
        if output_dir is None:
            self._upload_files()

    def _upload_files(self) -> None:
        """Upload what was written into an ``output_dir`` that is an address."""
        if self.is_world_process_zero():
            self._checkpoints.remote.upload_files()

    # -- floating point operations --------------------------------------------------------------------------------

    def store_flos(self) -> None:
        """Add the floating point operations since the last call to ``state.total_flos``."""
        self.state.total_flos += self._engine.train_step.take_flos()

    def floating_point_ops(self, inputs: Any) -> int:
        """Return the floating point operations of a batch; 0 if the model does not count them."""
        return int(getattr(self.model, "floating_point_ops", lambda inputs: 0)(inputs))

    # -- processes ------------------------------------------------------------------------------------------------

    def is_local_process_zero(self) -> bool:
        """Return whether this is the first process of its machine."""
        return bool(self.args.local_process_index == 0)

    def is_world_process_zero(self) -> bool:
        """Return whether this is the first process of all."""
        return bool(self.args.process_index == 0)

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the ``value`` of every process, in the order of the ranks; all processes must call it."""
        gathered: list[Any] = self._engine.strategy.collectives.gather("gather_objects()", value)
        return gathered
