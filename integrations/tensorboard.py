"""TensorBoard integration, for models of either framework."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackside.callbacks._util.imports import require_package
from trackside.callbacks.errors import ArgumentError, check_count
from trackside.callbacks.state import TrainerControl, TrainerState

from ._base.model_weights import named_weights
from ._base.tracker import Status, Tracker, values_of

if TYPE_CHECKING:
    from ._compat.event_file import EventFile


class TensorBoardCallback(Tracker):
    """Write log records, arguments and, on request, images and histograms of the weights to TensorBoard's event files.

    A resumed run continues in the folder of the run that it resumes. Points after the checkpoint, which the killed
    process had written, are dropped by every reader, so that no step appears twice. Any other training has a folder of
    its own: the one that is named or, where that holds a run, one beside it with a number (``runs_2``).

    Args:
        log_dir: Folder of the run; None: ``args.logging_dir``, or the folder of the run that is resumed.
        hparams: Write the arguments for TensorBoard's table of hyperparameters.
        text: Write the arguments as text.
        histograms_every: Write the distributions of the weights every so many steps; None: never.
        images: Function that is called with the trainer after each evaluation and returns images by name. Only an
            attachment in Python can set it.

    Attributes:
        run_dir: Folder that is written to; None before the first record.

    Shapes:
        Images: (height, width) or (height, width, colours) with 1, 3 or 4 colours, of type uint8.

    Raises:
        MissingPackageError: If TensorBoard is not installed, or ``images`` is given and Pillow is not installed.
        ArgumentError: If ``histograms_every`` is not a whole number from 1, or ``images`` cannot be called.

    Example:
        >>> import numpy as np
        >>> callback = TensorBoardCallback(images=lambda trainer: {"noise": np.zeros((8, 8, 3), np.uint8)})
    """

    name: str | None = "tensorboard"
    package: str = "tensorboard"
    background: bool = False  # a record takes microseconds, and the weights must not change while they are read

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        hparams: bool = True,
        text: bool = True,
        histograms_every: int | None = None,
        images: Any = None,
    ) -> None:
        super().__init__()
        if histograms_every is not None:
            check_count("histograms_every", histograms_every)
            self.on_step_end = self._write_histograms  # type: ignore[method-assign]  # without it, steps cost nothing
        if images is not None:
            if not callable(images):
                raise ArgumentError("images", images, "a function that takes the trainer and returns images by name")
            require_package("PIL", "TensorBoardCallback(images=...)", self.name)
        self.log_dir: Path | None = None if log_dir is None else Path(log_dir).expanduser()
        self.hparams = hparams
        self.text = text
        self.histograms_every = histograms_every
        self.images = images
        self.run_dir: Path | None = None
        self._file: EventFile | None = None
        self._lacks_history = False

    def new_run_id(self, args: Any) -> str:
        """Return the folder of a new run: relative to ``args.output_dir`` if inside, so that both can be moved."""
        output_dir = Path(args.output_dir)
        folder = Path(self.log_dir or getattr(args, "logging_dir", None) or output_dir / "runs")
        if self._is_training:
            folder = _unused(folder)
        return str(folder.relative_to(output_dir) if folder.is_relative_to(output_dir) else folder.absolute())

    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Begin an event file; in training, readers drop what the folder holds from this step on."""
        from ._compat.event_file import EventFile  # here, since importing TensorBoard's modules takes 0.4 s

        self.run_dir = self._folder(args, resume)
        continues = resume and self._is_training and _holds_a_run(self.run_dir)
        self._lacks_history = not continues
        self._file = EventFile(self.run_dir, state.global_step if continues else None)
        if self._is_training and self.text:
            self._file.text("args", _as_table(values_of(args)), state.global_step)
        if self._is_training and self.hparams:
            self._file.hparams(values_of(args))

    def _folder(self, args: Any, resume: bool) -> Path:
        """Return the folder of the run; ``log_dir`` replaces that of a run which was elsewhere before it is resumed."""
        folder = Path(args.output_dir) / str(self.run_id)
        is_beside = self.log_dir is not None and re.fullmatch(
            rf"{re.escape(str(self.log_dir.absolute()))}(_\d+)?", str(folder.absolute())
        )
        return self.log_dir if resume and self.log_dir is not None and not is_beside else folder

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        if self._file is not None:
            self._file.scalars(values, step)

    def last_step(self, name: str) -> int:
        """Return the step before the one that is resumed: its own points are dropped, as are all later ones.

        A folder without the earlier part of the run gets all of its history.
        """
        return -1 if self._lacks_history else self._opened_at_step - 1

    def close(self, status: Status, state: TrainerState) -> None:
        """End the event file, and write how a training ended."""
        if self._file is not None:
            if self._is_training and self.hparams:
                self._file.hparams_end(succeeded=status == "finished")
            self._file.close()
            self._file = None

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.images is not None and self._file is not None:
            self._file.images(self.images(kwargs.get("trainer")), state.global_step)
        super().on_evaluate(args, state, control, **kwargs)

    def _write_histograms(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._file is not None and self.histograms_every and state.global_step % self.histograms_every == 0:
            self._file.histograms(dict(named_weights(kwargs.get("model"))), state.global_step)


def _holds_a_run(folder: Path) -> bool:
    return any(folder.glob("events.out.tfevents.*"))


def _unused(folder: Path) -> Path:
    """Return ``folder``, or one beside it that holds no run yet."""
    free, number = folder, 2
    while _holds_a_run(free):
        free, number = folder.with_name(f"{folder.name}_{number}"), number + 1
    return free


def _as_table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in sorted(values.items())]
    return "\n".join(["| argument | value |", "|---|---|", *rows])
