"""The engine of a trainer: what a framework does for the loop, for evaluation and for checkpoints.

`Engine` and its three parts are abstract classes with one implementation for each framework, in ``trainer/pytorch`` and
``trainer/tensorflow``. A class that lacks a method cannot be made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .checkpointing.manifest import Contents
from .checkpointing.store import Write
from .memory_metrics import DeviceMemory
from .progress import Progress
from .step_timer import StepTimer


class TrainBatch(NamedTuple):
    """A micro-batch: its inputs, and its examples in this process and on all processes together."""

    inputs: Any
    examples: int
    examples_of_all: int


@dataclass(slots=True)
class StepContext:
    """One micro-batch on its way through the step.

    Attributes:
        index, count: Its number in the update, from 0, and the micro-batches of that update.
        is_padding: Whether it only keeps this rank in step with the others and counts for nothing.
        is_single: Whether it is the whole update, on one process, so that its mean loss is that of the update.
        is_part: Whether it is a part of a micro-batch that did not fit into memory as a whole.
        items: The items that its mean loss is over; None where they were not counted.
        weight: ``items`` relative to a constant; what its loss is multiplied by in the backward pass.
    """

    index: int = 0
    count: int = 1
    is_padding: bool = False
    is_single: bool = False
    is_part: bool = False
    items: Any = None
    weight: Any = 1.0

    @property
    def is_last(self) -> bool:
        """Whether the update is complete with this micro-batch."""
        return self.index + 1 == self.count


@dataclass
class StepResult:
    """What one evaluation step gives; everything but ``examples`` may still be on the device.

    Attributes:
        loss: Mean loss of the batch; None without labels.
        weight: Items that the mean is over.
        logits, labels, inputs: Nested tensors of shape (examples, ...), or None.
        examples: Examples of this process in the batch that are not padding.
    """

    loss: Any
    weight: Any
    logits: Any
    labels: Any
    examples: int
    inputs: Any = None


class Overrides(frozenset[str]):
    """The names of the documented methods that a subclass of a trainer, or the instance, overrides.

    It is made once, when the trainer is made; behaviour that depends on an override asks this record and nothing else.
    """

    @classmethod
    def of(cls, trainer: Any, base: type) -> Overrides:
        """Return the methods of ``trainer`` that are not those of the class ``base``."""
        own = (name for name in dir(type(trainer)) if not name.startswith("__"))
        return cls(name for name in own if getattr(type(trainer), name) is not getattr(base, name, None))

    def any(self, *names: str) -> bool:
        """Return whether one of ``names`` is overridden."""
        return not self.isdisjoint(names)


class JobStore(Protocol):
    """Short texts by name that outlive the processes of a job which its launcher starts again."""

    def set(self, name: str, text: str, /) -> None:
        """Write a text."""

    def get(self, name: str, /) -> bytes:
        """Return a text."""

    def check(self, names: list[str], /) -> bool:
        """Return whether all of these texts exist."""


class TrainStep(ABC):
    """One update, from a batch to the optimizer. The loop calls the methods in this order."""

    @abstractmethod
    def fused_update(self, window: Sequence[Any]) -> bool:
        """Do a whole update in one call; return False where it has to go piece by piece."""

    @abstractmethod
    def micro_step(self, batch: Any, context: StepContext) -> None:
        """Take a micro-batch forward and backward."""

    @abstractmethod
    def finish_gradients(self) -> Any:
        """Normalize, unscale and clip the gradients; return their norm before clipping, still on the device."""

    @abstractmethod
    def optimizer_step(self) -> bool:
        """Step optimizer and schedule; return whether the loss scaler skipped the step."""

    @abstractmethod
    def clear_gradients(self) -> None:
        """Clear the gradients."""

    @abstractmethod
    def take_loss(self) -> float:
        """Return the sum of the losses of the updates since the last call. Waits for the device."""

    @abstractmethod
    def training_record(self) -> dict[str, float]:
        """Return the gradient norm and the learning rate for a log record. Waits for the device."""

    @abstractmethod
    def take_flos(self) -> float:
        """Return the floating point operations of all processes since the last call."""


class EvaluationStep(ABC):
    """Evaluation and prediction: the batches, and one step on each."""

    @abstractmethod
    def evaluation_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of ``dataset``, or of the trainer's evaluation dataset if it is None."""

    @abstractmethod
    def test_batches(self, dataset: Any) -> Iterable[Any]:
        """Return the batches of a test dataset."""

    @abstractmethod
    def counted(self, batches: Iterable[Any]) -> Iterable[Any]:
        """Return the batches as `evaluation_step` takes them, with the examples of each that count."""

    @abstractmethod
    def eval_mode(self) -> AbstractContextManager[Any]:
        """Return a context in which the model is in evaluation mode."""

    @abstractmethod
    def evaluation_step(self, batch: Any, prediction_loss_only: bool, ignore_keys: list[str] | None) -> StepResult:
        """Run one batch through the model."""

    @abstractmethod
    def to_host(self, nested: Any) -> Any:
        """Return nested tensors as numpy arrays. Waits for the device."""

    @abstractmethod
    def num_examples(self, batches: Any) -> int | None:
        """Return the number of examples behind ``batches``, where it can be known."""

    @abstractmethod
    def is_dict_of_datasets(self, dataset: Any) -> bool:
        """Return whether ``dataset`` is a dict of datasets by their names."""


class CheckpointIO(ABC):
    """What a checkpoint holds of model, optimizer, schedule, precision and random numbers."""

    @abstractmethod
    def snapshot(self, *, copy: bool) -> Write:
        """Return a function that writes everything into a folder, and returns the roles of the files by their names.

        Args:
            copy: Hold copies, so that training may go on before the function is called.
        """

    @abstractmethod
    def write_shards(self) -> None:
        """Write what this process adds to the checkpoint that the first one is writing, if anything."""

    @abstractmethod
    def load_snapshot(self, contents: Contents) -> None:
        """Restore what `snapshot` wrote, except the random number generators."""

    @abstractmethod
    def load_weights(self, contents: Contents) -> None:
        """Load the weights of a checkpoint, and nothing else."""

    @abstractmethod
    def save_model(self, output_dir: str | None) -> None:
        """Write the weights into ``output_dir``, from the first process."""


class Engine(ABC):
    """The framework's part of a trainer.

    Attributes:
        strategy: How many processes there are, and how they exchange gradients, numbers and objects.
        step_timer: Times whole steps, and the part of each before this process waits for the others.
        train_step, evaluation, checkpoint: Its parts; made anew by `configure`.
        given_optimizers: The optimizer and the schedule that the trainer was given, each None where it creates them.
    """

    strategy: Any
    step_timer: StepTimer
    train_step: TrainStep
    evaluation: EvaluationStep
    checkpoint: CheckpointIO
    given_optimizers: tuple[Any, Any]

    # -- set-up ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def configure(self) -> None:
        """Set up what follows from the arguments; called when the trainer is made, and when its arguments change."""

    @abstractmethod
    def prepare_data(self) -> int | None:
        """Build the source of training batches; return the micro-batches of one epoch on each process, if known."""

    @abstractmethod
    def prepare_model(self, max_steps: int) -> None:
        """Place and wrap the model, create optimizer and schedule."""

    @abstractmethod
    def seed(self, checkpoint: Path | None) -> None:
        """Set the random number generators: from the checkpoint, or afresh from ``args.seed`` and the rank."""

    @abstractmethod
    def set_seed(self, seed: int) -> None:
        """Seed every random number generator."""

    # -- the epoch ------------------------------------------------------------------------------------------------

    @abstractmethod
    def epoch_batches(self, epoch: int, skip_examples: int) -> Iterator[Any]:
        """Return the micro-batches of an epoch for this process, without its first ``skip_examples`` examples."""

    @abstractmethod
    def count_examples(self, window: Sequence[Any]) -> int:
        """Return the examples in a window, counted over all processes."""

    @abstractmethod
    def batches_used(self, progress: Progress) -> int:
        """Return the micro-batches of this process that hold the examples which ``progress`` has seen of the epoch."""

    # -- processes and devices --------------------------------------------------------------------------------------

    @abstractmethod
    def propagate_errors(self) -> AbstractContextManager[Any]:
        """Return a context in which an error of one process ends all, each with the error that came first."""

    @abstractmethod
    def sync_control(self, stop_signal: str | None, *, after_update: bool = False) -> str | None:
        """Give every process the flags of the first; return the stop signal that any process got."""

    @abstractmethod
    def job_store(self) -> JobStore | None:
        """Return what outlives the processes of a job that is started again; None where nothing does."""

    @abstractmethod
    def device_memory(self, reset: bool) -> DeviceMemory | None:
        """Return the memory of the accelerator, its peak reset first if ``reset``; None without one."""
