"""Engine of a trainer: abstract classes for the operations of a framework, which both backends implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpointing.manifest import Contents
from .checkpointing.store import Write
from .distributed.launcher import JobStore
from .distributed.strategy import BaseStrategy
from .measuring.descriptions import DataDescription, ModelDescription
from .measuring.memory import DeviceMemory
from .measuring.step_timer import StepTimer
from .optim.given import GivenOptimizers
from .optim.resuming import MadeOptimizer
from .progress import Progress
from .train_step import TrainStep


@dataclass
class StepResult:
    """The result of one evaluation step; everything but ``examples`` may still be on the device.

    Attributes:
        loss: Mean loss of the batch, or several losses that are added up; None without labels.
        weight: Number of items in the mean, or in each of the means; without a loss it is not looked at.
        logits, labels, inputs: Nested tensors of shape (examples, ...), or None.
        examples: Number of examples of this process in the batch, without padding.
    """

    loss: Any
    weight: Any
    logits: Any
    labels: Any
    examples: int
    inputs: Any = None


class EvaluationStep(ABC):
    """Evaluation and prediction: the batches, and one step on each.

    Attributes:
        delay: Number of batches whose outputs may be on their way to the host meanwhile; None: many of them go at once.
        doubt: Why the weights of batches may not be what they should be; empty if they are.
    """

    delay: int | None = 0
    doubt: str = ""

    @abstractmethod
    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's evaluation dataset if it is None."""

    @abstractmethod
    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""

    @abstractmethod
    def counted(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return the batches as `evaluation_step` takes them, each with the number of its examples that count."""

    @abstractmethod
    def eval_mode(self) -> AbstractContextManager[Any]:
        """Return a context in which the model is in evaluation mode."""

    @abstractmethod
    def evaluation_step(self, batch: Any, prediction_loss_only: bool, ignore_keys: list[str] | None) -> StepResult:
        """Run one batch through the model."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """Return the metrics that belong to the model and were computed over the batches of the evaluation, by name."""

    @abstractmethod
    def fetch(self, nested: Any) -> Callable[[], Any]:
        """Begin to copy nested tensors to the host; return a function that waits for them, and returns numpy arrays."""

    @abstractmethod
    def for_metrics(self, nested: Any) -> Any:
        """Return nested numpy arrays of a batch as compute_metrics gets them batch by batch."""

    @abstractmethod
    def num_examples(self, batches: Any) -> int | None:
        """Return the number of examples in ``batches``; None if it is unknown."""

    @abstractmethod
    def is_dict_of_datasets(self, dataset: Any) -> bool:
        """Return whether ``dataset`` is a dict of datasets by name."""


class CheckpointIO(ABC):
    """Saving and restoring of model, optimizer, schedule, precision and random numbers."""

    @abstractmethod
    def begin_run(self) -> None:
        """Note what `snapshot` will not hold, of which it tells if training changes it."""

    @abstractmethod
    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes everything, copied now if ``copy``, and returns the roles of the files."""

    @abstractmethod
    def rehearse(self, folder: Path) -> None:
        """Take the names and types of what `snapshot` writes through writing and reading, before the first update."""

    @abstractmethod
    def sizes_needed(self) -> list[int]:
        """Return the sizes in bytes of tensors that a checkpoint has at least; empty if they are not known."""

    @abstractmethod
    def prepare_memory(self) -> None:
        """Begin to make the memory that copies for checkpoints share, if it is known how much they need."""

    @abstractmethod
    def release_memory(self) -> None:
        """Free the memory that copies for checkpoints share, after the last one is written."""

    @abstractmethod
    def write_shards(self) -> None:
        """Write this process's share, if any, of the checkpoint that the first process is writing."""

    @abstractmethod
    def load_snapshot(self, contents: Contents, before: Mapping[str, Any] | None, step: int) -> None:
        """Restore what `snapshot` wrote after ``step`` updates, but no generators; ``before``: its optimizer record."""

    @abstractmethod
    def random_state_kept(self) -> AbstractContextManager[None]:
        """Return a context that ends with the states of the random number generators with which it began."""

    @abstractmethod
    def load_weights(self, contents: Contents) -> None:
        """Load only the weights of a checkpoint."""

    @abstractmethod
    def save_model(self, output_dir: str | None) -> None:
        """Write the weights into ``output_dir``, on the first process."""


class Engine(ABC):
    """The framework-specific part of a trainer.

    Attributes:
        sandbox: Lets the model be tried, which is afterwards what it was.
        strategy: The processes of the run, and their exchange of numbers and objects.
        step_timer: Measures whole steps, and the part of each before this process waits for the others.
        train_step, evaluation, checkpoint: The parts of the engine; created again by `configure`.
        given: The optimizer and the schedule of the user, or None for each.
        made: The optimizer and the schedule as made for the run; None before `prepare_model`.
        average: An average of the weights.
    """

    strategy: BaseStrategy
    step_timer: StepTimer
    train_step: TrainStep
    evaluation: EvaluationStep
    checkpoint: CheckpointIO
    given: GivenOptimizers
    made: MadeOptimizer | None
    average: Any
    sandbox: Any

    @abstractmethod
    def configure(self) -> None:
        """Create the parts that depend on the arguments; called for a new trainer, and when its arguments change."""

    @abstractmethod
    def prepare_data(self, resized: tuple[int | None, int] | None = None) -> int | None:
        """Build the source of training batches, of a size ``resized`` (see `Progress`); return batches per epoch."""

    @abstractmethod
    def prepare_model(self, max_steps: int) -> None:
        """Place and wrap the model; create the optimizer and the schedule."""

    @abstractmethod
    def reschedule(self, max_steps: int, step: int) -> None:
        """Make the schedule for another length of the run, after ``step`` updates, unless the user gave it."""

    @abstractmethod
    def optimizer_record(self) -> dict[str, Any] | None:
        """Return a description of optimizer and schedule as made, for a resumed run; None before `prepare_model`."""

    @abstractmethod
    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators from the checkpoint, or without one from ``args.seed`` and the rank."""

    @abstractmethod
    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""

    @abstractmethod
    def replace_model(self) -> None:
        """Let go of the previous model and of what was made for it, and go on with the trainer's present one."""

    # -- the epoch ------------------------------------------------------------------------------------------------

    @abstractmethod
    def epoch_batches(self, progress: Progress) -> Iterator[Any]:
        """Return this process's micro-batches of the epoch in ``progress``, from its position on."""

    @abstractmethod
    def refresh_data(self, epoch: int) -> tuple[bool, int | None]:
        """Take the training data as callbacks have left it; return whether it changed, and its micro-batches."""

    @abstractmethod
    def count_examples(self, window: Sequence[Any]) -> int:
        """Return the number of examples in a window, over all processes."""

    @abstractmethod
    def batches_used(self, progress: Progress) -> int | None:
        """Return this process's micro-batches that hold the epoch's used examples in ``progress``; None if unknown."""

    @abstractmethod
    def describe_data(self) -> DataDescription:
        """Return a description of the training data."""

    @abstractmethod
    def describe_model(self) -> ModelDescription:
        """Return a description of the model."""

    # -- processes and devices --------------------------------------------------------------------------------------

    @abstractmethod
    def propagate_errors(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all processes with the first error."""

    @abstractmethod
    def sync_control(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first process; return the stop signal that any process received."""

    @abstractmethod
    def job_store(self) -> JobStore | None:
        """Return the store that persists when a job is restarted; None if there is none."""

    @abstractmethod
    def device_memory(self, reset: bool) -> DeviceMemory | None:
        """Return the memory of the accelerator, after a reset of its peak if ``reset``; None without an accelerator."""
