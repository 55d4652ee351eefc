"""Lightning adapter: Lightning loggers on either trainer."""

from __future__ import annotations

import copy
import logging
from argparse import Namespace
from typing import Any

from trackside.callbacks.errors import TracksideTypeError
from trackside.callbacks.state import TrainerControl, TrainerState

from ._base.tracker import Status, Tracker, values_of

log: logging.Logger = logging.getLogger("trackside.integrations")

METHODS = ("log_hyperparams", "log_metrics", "save", "finalize")

STATUSES = {"finished": "success", "failed": "failed", "killed": "aborted"}


class LightningLoggerAdapter(Tracker):
    """Log the records and arguments of a run with a logger written for Lightning.

    A Lightning logger cannot tell which steps it has logged. A resumed run therefore starts with the whole history,
    which is right if the logger writes to a new version, as loggers do by default. Each further training writes with a
    copy of the logger as it was given, so that it gets a version of its own.

    Args:
        logger: Logger, such as ``lightning.pytorch.loggers.CSVLogger("logs")``.

    Attributes:
        logger: The logger of the last run: the given one, or a copy.

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
        self.adapted: Any = logger
        self.logger: Any = logger
        self._unused = _copy_of(logger)
        self._is_used = False

    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Log the arguments, of a training with a logger that holds no run yet."""
        if self._is_used and self._is_training:
            self.logger = _copy_of(self._unused) or self.logger
            if self._unused is None:
                log.warning("%s cannot be copied; this training is added to the last", type(self.logger).__name__)
        self._is_used = True
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


def _copy_of(logger: Any) -> Any:
    """Return a copy of a logger that has not been used; None if it cannot be copied."""
    try:
        return copy.deepcopy(logger)
    except Exception:  # of whatever the logger holds
        return None
