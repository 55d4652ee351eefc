"""Arguments that are read when a run begins: a change by a callback within the run has no effect on it, and is told."""

from __future__ import annotations

import logging
from typing import Any

logger: logging.Logger = logging.getLogger("trackside.trainer")

OF_STATE = ("max_steps", "logging_steps", "eval_steps", "save_steps")
"""Those that the state has, too, where a change counts at once."""

READ_AT_START = (
    *OF_STATE,
    *("num_train_epochs", "per_device_train_batch_size", "limit_train_batches", "overfit_batches"),
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "label_smoothing_factor"),
    *("fp16", "bf16", "save_total_limit"),
)
"""Arguments that a run reads when it begins, and never again, on both frameworks."""


class ArgumentsOfRun:
    """The arguments of a run as they were when it began.

    Args:
        args: The trainer's arguments, which callbacks get, too.
    """

    def __init__(self, args: Any) -> None:
        self._args = args
        self._at_start = {name: getattr(args, name) for name in READ_AT_START}
        self._values = [*vars(args).values()]

    def tell_changes(self) -> None:
        """Warn of each argument that was changed since the run began, once."""
        values = [*vars(self._args).values()]
        if values == self._values:  # one comparison in C, at each record
            return
        self._values = values
        changed = [name for name, value in self._at_start.items() if getattr(self._args, name) != value]
        for name in changed:
            instead = f", or set state.{name} for this one" if name in OF_STATE else ""
            logger.warning(
                "args.%s was changed within the run, from %r to %r: a run reads it when it begins, so this has no "
                "effect on it. Set it before train()%s",
                name, self._at_start.pop(name), getattr(self._args, name), instead,
            )  # fmt: skip
