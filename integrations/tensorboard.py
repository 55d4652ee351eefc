"""TensorBoard, with either framework or none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.callback import TrainerCallback
from trackside.callbacks.errors import ArgumentError, MissingPackageError
from trackside.callbacks.state import TrainerControl, TrainerState

from ._base.metric_names import as_number, rewrite_logs
from ._base.model_weights import named_weights

if TYPE_CHECKING:
    from ._formats.event_file import EventFile


class TensorBoardCallback(TrainerCallback):
    """Write log records, arguments and, on request, images and histograms of the weights where TensorBoard reads them.

    A resumed run goes on in the folder of the run that it resumes. Points after the checkpoint, which the killed run
    had written, are dropped by every reader, so that no step appears twice.

    Args:
        log_dir: Folder of the run; None: ``args.logging_dir``, or the folder of the run that is resumed.
        hparams: Write the arguments for TensorBoard's table of hyperparameters.
        text: Write the arguments as text.
        histograms_every: Write the weights' distribution each time so many steps are done; None: never.
        images: A function that is called with the trainer after each evaluation, and returns images by name: arrays of
            height, width and 1, 3 or 4 colours (or only height and width), of type uint8. Given in Python only.

    Raises:
        MissingPackageError: If TensorBoard is not installed.
        ArgumentError: If ``histograms_every`` is not a whole number from 1, or ``images`` cannot be called.

    Example:
        >>> import numpy as np
        >>> callback = TensorBoardCallback(images=lambda trainer: {"noise": np.zeros((8, 8, 3), np.uint8)})
    """

    role = "observer"
    name = "tensorboard"
    package = "tensorboard"

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        hparams: bool = True,
        text: bool = True,
        histograms_every: int | None = None,
        images: Any = None,
    ) -> None:
        if not is_installed(self.package):
            raise MissingPackageError(self.package, type(self).__name__, extra="tensorboard")
        if histograms_every is not None:
            if not isinstance(histograms_every, int) or not histograms_every >= 1:
                raise ArgumentError("histograms_every", histograms_every, "a whole number of steps from 1, or None")
            self.on_step_end = self._write_histograms  # type: ignore[method-assign]  # without it, steps cost nothing
        if images is not None:
            if not callable(images):
                raise ArgumentError("images", images, "a function that takes the trainer and returns images by name")
            self.on_evaluate = self._write_images  # type: ignore[method-assign]
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.hparams = hparams
        self.text = text
        self.histograms_every = histograms_every
        self.images = images
        self.run_dir: Path | None = None
        """The folder that is written to; None before the first record."""
        self._resumed_dir: str | None = None
        self._output_dir = Path()
        self._file: EventFile | None = None
        self._failed = False

    def state_dict(self) -> dict[str, Any]:
        if self.run_dir is None:
            return {} if self._resumed_dir is None else {"run_dir": self._resumed_dir}
        inside = self.run_dir.is_relative_to(self._output_dir)  # the folder may be moved, with the run in it
        return {"run_dir": str(self.run_dir.relative_to(self._output_dir) if inside else self.run_dir.absolute())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resumed_dir = state.get("run_dir")

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._close()
        self._failed = False
        step = state.global_step
        self.run_dir = None
        file = self._open(args, purge_step=step)
        # what the checkpoint knows of its own step is purged too, since the killed run may have gone on after saving
        for record in state.log_history:
            if record.get("step") == step:
                file.scalars(_numbers(record), step)
        if self.text:
            file.text("args", _as_table(_values_of(args)), step)
        if self.hparams:
            file.hparams(_values_of(args))

    def on_log(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            (self._file or self._open(args)).scalars(_numbers(logs), state.global_step)

    def on_exception(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._failed = True

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._file is not None and self.hparams:
            self._file.hparams_end(succeeded=not self._failed)
        self._close()

    def _write_histograms(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if self._file is not None and self.histograms_every and state.global_step % self.histograms_every == 0:
            self._file.histograms(dict(named_weights(model)), state.global_step)

    def _write_images(
        self, args: Any, state: TrainerState, control: TrainerControl, trainer: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            (self._file or self._open(args)).images(self.images(trainer), state.global_step)

    def _open(self, args: Any, purge_step: int | None = None) -> EventFile:
        from ._formats.event_file import EventFile  # here, since TensorBoard's modules take 0.4 s

        self._output_dir = Path(args.output_dir)
        self.run_dir = self.log_dir or self.run_dir or self._folder(args, is_resumed=bool(purge_step))
        self._file = EventFile(self.run_dir, purge_step)
        return self._file

    def _folder(self, args: Any, is_resumed: bool) -> Path:
        if is_resumed and self._resumed_dir is not None:
            return self._output_dir / self._resumed_dir
        return Path(getattr(args, "logging_dir", None) or self._output_dir / "runs")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    named = {name: as_number(value) for name, value in rewrite_logs(logs).items()}
    return {name: value for name, value in named.items() if value is not None}


def _values_of(args: Any) -> dict[str, Any]:
    """Return the arguments as plain values, whatever class they are of."""
    if hasattr(args, "to_sanitized_dict"):
        return dict(args.to_sanitized_dict())
    plain = bool | int | float | str
    return {name: value if isinstance(value, plain) else str(value) for name, value in vars(args).items()}


def _as_table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in sorted(values.items())]
    return "\n".join(["| argument | value |", "|---|---|", *rows])
