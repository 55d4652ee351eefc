"""Files of a checkpoint beside the weights: optimizer, schedule, loss scale, random numbers."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from trackside.callbacks._util.exact_data import Tell
from trackside.callbacks.errors import ArgumentError

from ..checkpointing.manifest import roles_of

logger: logging.Logger = logging.getLogger("trackside.trainer")


class StateFiles(ABC):
    """The files of a checkpoint beside the weights: optimizer, schedule, loss scale, random numbers.

    Attributes:
        optimizer_file: Name of the file with the optimizer's state.
        suffix: Suffix of the names of the other files.
    """

    _told: set[str]
    trainer: Any
    train_step: Any
    optimizer_file: str
    suffix: str

    def rehearse(self, folder: Path) -> None:
        """Write all files, without the values of tensors, and read them.

        Raises:
            ArgumentError, CheckpointError, NotPlainError: If a checkpoint cannot hold a part of the state.
        """
        files = {} if self.trainer.args.save_only_model else self._states(self._optimizer_outline())
        files[self._rng_file(0)] = self._random_state()
        for name in self._write_files(folder, {name: self._outline(state) for name, state in files.items()}):
            self._read_file(folder / name)

    def _states(self, of_optimizer: Any) -> dict[str, Any]:
        """Return the states by file name, as their files keep them; None without a state.

        Args:
            of_optimizer: The state of the optimizer.

        Raises:
            ArgumentError: If the schedule has no state_dict.
            NotPlainError: If a part of a state cannot be kept.
        """
        states = {self.optimizer_file: of_optimizer}
        for name, part in self._small_parts().items():
            if part is not None and not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                allowed = "a schedule with state_dict() and load_state_dict(), or save_only_model or save_strategy='no'"
                raise ArgumentError("lr_scheduler", part, allowed)
            states[name] = None if part is None else part.state_dict() or None
        return {name: self._as_data(state, name, self._tell) for name, state in states.items()}

    def _tell(self, place: str, change: str) -> None:
        """Warn, once, that a value of a state comes back as one of another type."""
        if place not in self._told:
            self._told.add(place)
            logger.warning("%s %s", place, change)

    def _small_parts(self) -> dict[str, Any]:
        """Return the parts besides the optimizer that have their own state, by file name."""
        precision = self.train_step.precision
        return {f"scheduler{self.suffix}": self.trainer.lr_scheduler, f"scaler{self.suffix}": precision}

    @property
    def trained_file(self) -> str:
        """Name of the file with the weights that are trained, where those of the checkpoint are their average."""
        return f"trained_weights{os.path.splitext(self.optimizer_file)[1]}"

    def _rng_file(self, rank: int) -> str:
        return f"rng_state_{rank}{self.suffix}"

    def _write_files(self, folder: Path, files: dict[str, Any]) -> dict[str, str]:
        """Write each of ``files``, by name, unless it is None; return the roles of those written."""
        files = {name: content for name, content in files.items() if content is not None}
        for name, content in files.items():
            self._write_file(content, folder / name)
        return roles_of(files)

    def _outline(self, state: Any, /) -> Any:
        """Return a state without the values of its tensors."""
        return state

    # -- implemented by a framework -----------------------------------------------------------------------------------

    @abstractmethod
    def _optimizer_state(self) -> Any:
        """Return the state that `_read_optimizer` returns; None if the shards of the weights hold it."""

    @abstractmethod
    def _optimizer_outline(self) -> Any:
        """Return `_optimizer_state`, possibly without the values of tensors."""

    @abstractmethod
    def _random_state(self) -> dict[str, Any]:
        """Return the states of the random number generators of this process."""

    @abstractmethod
    def _as_data(self, state: Any, name: str, tell: Tell, /) -> Any:
        """Return a state as the file ``name`` keeps it; ``tell`` is called for what comes back as another type.

        Raises:
            NotPlainError: If a part of it cannot be kept.
        """

    @abstractmethod
    def _write_file(self, content: Any, path: Path, /) -> None:
        """Write a file that holds only data, no code.

        Raises:
            CheckpointError: If it could not be read.
        """

    @abstractmethod
    def _read_file(self, path: Path, /) -> Any:
        """Return the content that `_write_file` wrote.

        Raises:
            CheckpointError: If it cannot be read.
        """
