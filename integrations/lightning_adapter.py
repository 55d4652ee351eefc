"""Lightning adapter: Lightning loggers on either trainer."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from trackside.callbacks.errors import TracksideTypeError
from trackside.callbacks.state import TrainerControl, TrainerState

from ._base.tracker import Status, Tracker, values_of

METHODS = ("log_hyperparams", "log_metrics", "save", "finalize")

STATUSES = {"finished": "success", "failed": "failed", "killed": "aborted"}


class LightningLoggerAdapter(Tracker):
    """Log the records and arguments of a run with a logger written for Lightning.

    A Lightning logger cannot tell which steps it has logged. A resumed run therefore starts with the whole history,
    which is right if the logger writes to a new version, as loggers do by default.

    Args:
        logger: Logger, such as ``lightning.pytorch.loggers.CSVLogger("logs")``.

    Raises:
        TracksideTypeError: If ``logger`` lacks a method of Lightning's loggers.
    """

    name: str | None = "lightning_logger"

    def __init__(self, logger: Any) -> None:
        missing = [method for method in METHODS if not callable(getattr(logger, method, None))]
        if missing:
            found = type(logger).__name__
            raise TracksideTypeError(f"{found} is not a Lightning logger: it has no method {', '.join(missing)}")
        super().__init__()
        self.logger = self.adapted = logger

    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Log the arguments."""
        self.logger.log_hyperparams(Namespace(**values_of(args)))

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        self.logger.log_metrics(values, step)

    def close(self, status: Status, state: TrainerState) -> None:
        """Save, and tell the logger how the run ended."""
        self.logger.save()
        self.logger.finalize(STATUSES[status])

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._is_open:
            self.logger.save()
        super().on_evaluate(args, state, control, **kwargs)
