"""Derived properties: values that follow from the arguments of a run and the rank of its process."""

from __future__ import annotations

import logging
import os
import socket
import time
from functools import cached_property
from typing import Any

from trackside.callbacks._util.plain_data import sanitized
from trackside.callbacks.errors import ArgumentError

from ..distributed.launcher import ProcessRank, detect_launcher
from ..optim.lr_schedules import steps_of_share, warmup_length
from .enums import ParallelMode
from .serialization import SerializableArguments
from .validation import NEEDS
from .within_run import COUNTED

STEPS = ("logging_steps", "eval_steps", "save_steps")


class DerivedArguments(SerializableArguments):
    """The derived properties of arguments, without a framework; a backend overrides the properties of devices."""

    counted_within_run = COUNTED
    """Fields of which a change within a run counts from then on; a change of any other is told."""

    counted_only_with = NEEDS
    """Fields that count only beside others; a run tells those that are given in vain."""

    output_dir: str
    per_device_train_batch_size: int
    per_device_eval_batch_size: int
    warmup_steps: float
    warmup_ratio: float
    logging_steps: float
    save_on_each_node: bool
    seed: int
    data_seed: int | None
    log_level: str
    log_level_replica: str

    # -- devices --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> Any:
        """The device of this process."""
        return "cpu"

    @property
    def n_gpu(self) -> int:
        """Number of GPUs that this process uses."""
        return 0

    @property
    def train_batch_size(self) -> int:
        """Examples in a training micro-batch of this process, on all its devices."""
        return self.per_device_train_batch_size * max(1, self.n_gpu)

    @property
    def global_micro_batch_size(self) -> int:
        """Examples in a training micro-batch of all processes together."""
        return self.train_batch_size * self.world_size

    @property
    def eval_batch_size(self) -> int:
        """Examples in an evaluation batch of this process, on all its devices."""
        return self.per_device_eval_batch_size * max(1, self.n_gpu)

    @property
    def order_seed(self) -> int:
        """Seed of the order of the data."""
        return self.seed if self.data_seed is None else self.data_seed

    # -- processes ------------------------------------------------------------------------------------------------

    @cached_property
    def place(self) -> ProcessRank:
        """The rank of this process among those that the launcher started, read once."""
        return detect_launcher()

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        return self.place.world_size

    @property
    def process_index(self) -> int:
        """Rank of this process among all processes."""
        return self.place.rank

    @property
    def local_process_index(self) -> int:
        """Rank of this process among the processes of its machine."""
        return max(0, self.place.local_rank)

    @property
    def parallel_mode(self) -> ParallelMode:
        """The way in which the run uses its devices."""
        if self.world_size > 1:
            return ParallelMode.DISTRIBUTED
        return ParallelMode.NOT_DISTRIBUTED if self.n_gpu > 1 else ParallelMode.NOT_PARALLEL

    @property
    def should_save(self) -> bool:
        """Whether this process writes checkpoints and models, which the first of all does, or that of each machine."""
        return (self.local_process_index if self.save_on_each_node else self.process_index) == 0

    @property
    def should_log(self) -> bool:
        """Whether this process logs for all processes."""
        return self.process_index == 0

    def get_process_log_level(self) -> int:
        """Return the log level of this process; "passive" keeps the current level of logging."""
        name = self.log_level if self.should_log else self.log_level_replica
        level = logging.getLevelName(name.upper())
        return level if isinstance(level, int) else logging.getLogger().getEffectiveLevel()

    # -- steps ----------------------------------------------------------------------------------------------------

    def steps(self, name: str, max_steps: int) -> int:
        """Return ``logging_steps``, ``eval_steps`` or ``save_steps`` in updates; a share is a share of ``max_steps``.

        Raises:
            ArgumentError: If ``name`` is not one of these.
        """
        if name not in STEPS:
            raise ArgumentError("name", name, f"one of {', '.join(STEPS)}")
        value: float | None = getattr(self, name)
        value = self.logging_steps if value is None else value
        return int(value) if value >= 1 else max(1, steps_of_share(value, max_steps))

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the number of warm-up updates: ``warmup_steps``, or without it ``warmup_ratio`` of the run."""
        return warmup_length(self.warmup_steps, self.warmup_ratio, num_training_steps)

    # -- for trackers ---------------------------------------------------------------------------------------------

    def to_sanitized_dict(self) -> dict[str, bool | int | float | str]:
        """Return `to_dict` with the batch sizes of the process; all but bool, int and float become strings."""
        sizes = {"train_batch_size": self.train_batch_size, "eval_batch_size": self.eval_batch_size}
        return sanitized({**self.to_dict(), **sizes})

    def _logging_dir(self) -> str:
        given: str | None = self.given("logging_dir")
        if given is not None:
            return given
        folder = self.__dict__.setdefault("_run_folder", f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{socket.gethostname()}")
        return os.path.join(self.output_dir, "runs", folder)

    def _set_logging_dir(self, value: str | None) -> None:
        self.__dict__["logging_dir"] = value


# a field whose default is computed when it is read, so that new arguments are the same at any time, on any machine
LOGGING_DIR = property(DerivedArguments._logging_dir, DerivedArguments._set_logging_dir)
