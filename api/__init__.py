"""trackside: one training loop for PyTorch and TensorFlow, and callbacks that watch and steer it.

Every public name is here and is imported at its first use, so that ``import trackside`` is quick and loads no
framework. The imports below are read by editors and type checkers, and by `__getattr__` as the list of the names::

    from trackside import EarlyStoppingCallback, Trainer, TrainingArguments, events

``from trackside import *`` gives every name whose framework is installed, and so loads the frameworks that are; a name
that is imported by itself loads its own only.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trackside.callbacks import errors as errors
    from trackside.callbacks import events as events
    from trackside.callbacks.builtin.control_files import ControlFilesCallback as ControlFilesCallback
    from trackside.callbacks.builtin.csv_logger import CSVLoggerCallback as CSVLoggerCallback
    from trackside.callbacks.builtin.default_flow import DefaultFlowCallback as DefaultFlowCallback
    from trackside.callbacks.builtin.early_stopping import EarlyStoppingCallback as EarlyStoppingCallback
    from trackside.callbacks.builtin.journal import JournalCallback as JournalCallback
    from trackside.callbacks.builtin.jsonl_logger import JSONLinesLoggerCallback as JSONLinesLoggerCallback
    from trackside.callbacks.builtin.learning_rate_monitor import (
        LearningRateMonitorCallback as LearningRateMonitorCallback,
    )
    from trackside.callbacks.builtin.loss_guard import LossGuardCallback as LossGuardCallback
    from trackside.callbacks.builtin.printer import PrinterCallback as PrinterCallback
    from trackside.callbacks.builtin.progress import ProgressCallback as ProgressCallback
    from trackside.callbacks.builtin.straggler_monitor import RankTimeMonitorCallback as RankTimeMonitorCallback
    from trackside.callbacks.builtin.straggler_monitor import StragglerMonitorCallback as StragglerMonitorCallback
    from trackside.callbacks.builtin.terminate_on_nan import TerminateOnNaNCallback as TerminateOnNaNCallback
    from trackside.callbacks.builtin.throughput_monitor import ThroughputMonitorCallback as ThroughputMonitorCallback
    from trackside.callbacks.builtin.time_limit import TimeLimitCallback as TimeLimitCallback
    from trackside.callbacks.builtin.weights.ema import EMACallback as EMACallback
    from trackside.callbacks.builtin.weights.finetune_schedule import (
        FinetuneScheduleCallback as FinetuneScheduleCallback,
    )
    from trackside.callbacks.builtin.weights.swa import SWACallback as SWACallback
    from trackside.callbacks.callback import TrainerCallback as TrainerCallback
    from trackside.callbacks.errors import TracksideError as TracksideError
    from trackside.callbacks.state import TrainerControl as TrainerControl
    from trackside.callbacks.state import TrainerState as TrainerState
    from trackside.integrations.codecarbon import CodeCarbonCallback as CodeCarbonCallback
    from trackside.integrations.comet import CometCallback as CometCallback
    from trackside.integrations.keras_adapter import KerasCallbackAdapter as KerasCallbackAdapter
    from trackside.integrations.lightning_adapter import LightningLoggerAdapter as LightningLoggerAdapter
    from trackside.integrations.mlflow import MLflowCallback as MLflowCallback
    from trackside.integrations.notebook_progress import NotebookProgressCallback as NotebookProgressCallback
    from trackside.integrations.profiler import ProfilerCallback as ProfilerCallback
    from trackside.integrations.rich_progress import RichProgressCallback as RichProgressCallback
    from trackside.integrations.tensorboard import TensorBoardCallback as TensorBoardCallback
    from trackside.integrations.trackio import TrackioCallback as TrackioCallback
    from trackside.integrations.wandb import WandbCallback as WandbCallback
    from trackside.seeding import set_seed as set_seed
    from trackside.trainer.arguments.enums import IntervalStrategy as IntervalStrategy
    from trackside.trainer.checkpointing.remote import get_last_checkpoint as get_last_checkpoint
    from trackside.trainer.outputs import BestRun as BestRun
    from trackside.trainer.outputs import EvalLoopOutput as EvalLoopOutput
    from trackside.trainer.outputs import EvalPrediction as EvalPrediction
    from trackside.trainer.outputs import PredictionOutput as PredictionOutput
    from trackside.trainer.outputs import TrainOutput as TrainOutput
    from trackside.trainer.outputs import default_compute_objective as default_compute_objective
    from trackside.trainer.pytorch.arguments import TrainingArguments as TrainingArguments
    from trackside.trainer.pytorch.data.collators import DataCollatorWithPadding as DataCollatorWithPadding
    from trackside.trainer.pytorch.data.collators import default_data_collator as default_data_collator
    from trackside.trainer.pytorch.seq2seq.arguments import Seq2SeqTrainingArguments as Seq2SeqTrainingArguments
    from trackside.trainer.pytorch.seq2seq.trainer import Seq2SeqTrainer as Seq2SeqTrainer
    from trackside.trainer.pytorch.trainer import Trainer as Trainer
    from trackside.trainer.tensorflow.arguments import TFTrainingArguments as TFTrainingArguments
    from trackside.trainer.tensorflow.trainer import TFTrainer as TFTrainer

__version__ = "0.2.0"

_NAMES = {
    "trackside.callbacks": "errors events",
    "trackside.callbacks.builtin.control_files": "ControlFilesCallback",
    "trackside.callbacks.builtin.csv_logger": "CSVLoggerCallback",
    "trackside.callbacks.builtin.default_flow": "DefaultFlowCallback",
    "trackside.callbacks.builtin.early_stopping": "EarlyStoppingCallback",
    "trackside.callbacks.builtin.journal": "JournalCallback",
    "trackside.callbacks.builtin.jsonl_logger": "JSONLinesLoggerCallback",
    "trackside.callbacks.builtin.learning_rate_monitor": "LearningRateMonitorCallback",
    "trackside.callbacks.builtin.loss_guard": "LossGuardCallback",
    "trackside.callbacks.builtin.printer": "PrinterCallback",
    "trackside.callbacks.builtin.progress": "ProgressCallback",
    "trackside.callbacks.builtin.straggler_monitor": "RankTimeMonitorCallback StragglerMonitorCallback",
    "trackside.callbacks.builtin.terminate_on_nan": "TerminateOnNaNCallback",
    "trackside.callbacks.builtin.throughput_monitor": "ThroughputMonitorCallback",
    "trackside.callbacks.builtin.time_limit": "TimeLimitCallback",
    "trackside.callbacks.builtin.weights.ema": "EMACallback",
    "trackside.callbacks.builtin.weights.finetune_schedule": "FinetuneScheduleCallback",
    "trackside.callbacks.builtin.weights.swa": "SWACallback",
    "trackside.callbacks.callback": "TrainerCallback",
    "trackside.callbacks.errors": "TracksideError",
    "trackside.callbacks.state": "TrainerControl TrainerState",
    "trackside.integrations.codecarbon": "CodeCarbonCallback",
    "trackside.integrations.comet": "CometCallback",
    "trackside.integrations.keras_adapter": "KerasCallbackAdapter",
    "trackside.integrations.lightning_adapter": "LightningLoggerAdapter",
    "trackside.integrations.mlflow": "MLflowCallback",
    "trackside.integrations.notebook_progress": "NotebookProgressCallback",
    "trackside.integrations.profiler": "ProfilerCallback",
    "trackside.integrations.rich_progress": "RichProgressCallback",
    "trackside.integrations.tensorboard": "TensorBoardCallback",
    "trackside.integrations.trackio": "TrackioCallback",
    "trackside.integrations.wandb": "WandbCallback",
    "trackside.seeding": "set_seed",
    "trackside.trainer.arguments.enums": "IntervalStrategy",
    "trackside.trainer.checkpointing.remote": "get_last_checkpoint",
    "trackside.trainer.outputs": (
        "BestRun EvalLoopOutput EvalPrediction PredictionOutput TrainOutput default_compute_objective"
    ),
    "trackside.trainer.pytorch.arguments": "TrainingArguments",
    "trackside.trainer.pytorch.data.collators": "DataCollatorWithPadding default_data_collator",
    "trackside.trainer.pytorch.seq2seq.arguments": "Seq2SeqTrainingArguments",
    "trackside.trainer.pytorch.seq2seq.trainer": "Seq2SeqTrainer",
    "trackside.trainer.pytorch.trainer": "Trainer",
    "trackside.trainer.tensorflow.arguments": "TFTrainingArguments",
    "trackside.trainer.tensorflow.trainer": "TFTrainer",
}
"""Public names by the module that defines them; the imports above say the same to editors."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

_FRAMEWORKS = {"torch": "torch", "tensorflow": "tensorflow", "keras": "tensorflow"}
"""Frameworks by the module that is missing without them, each with the extra that installs it."""

_NEEDS = {"trackside.trainer.pytorch.": "torch", "trackside.trainer.tensorflow.": "tensorflow"}
"""Frameworks by the beginning of the modules that import them."""


def __getattr__(name: str) -> Any:
    """Import the public name ``name`` and keep it.

    Raises:
        AttributeError: If the name is unknown; the message has the nearest one.
        MissingPackageError: If its framework is not installed; the message has the pip command.
    """
    if name == "__all__":  # asked for by a star import only
        return _all()
    home = None if name.startswith("__") else _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'trackside' has no attribute {name!r}.{_nearest(name)}")
    try:
        with _no_collections():
            value = getattr(__import__(home, fromlist=[name]), name)
    except ModuleNotFoundError as error:
        extra = _FRAMEWORKS.get(error.name or "")
        if extra is None:
            raise
        from trackside.callbacks.errors import MissingPackageError

        raise MissingPackageError(extra, needed_for=f"trackside.{name}", extra=extra) from error
    globals()[name] = value
    return value


@contextmanager
def _no_collections() -> Iterator[None]:
    """Pause the collection of garbage: an import keeps all that it makes, and each look through it takes 0.1 s."""
    is_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if is_on:
            gc.enable()


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *_HOMES])


def _all() -> list[str]:
    """Return the public names whose framework is installed."""
    from trackside.callbacks._util.imports import is_installed

    missing = tuple(start for start, package in _NEEDS.items() if not is_installed(package))
    return sorted(name for name, home in _HOMES.items() if not home.startswith(missing))


def _nearest(name: str) -> str:
    if name.startswith("__"):  # Python and tools ask for many such names and expect that they do not exist
        return ""
    from trackside.callbacks.errors import did_you_mean

    return did_you_mean(name, _HOMES)
