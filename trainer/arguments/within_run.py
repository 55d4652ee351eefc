"""Arguments that a callback changes within a run: each counts from then on, or it has no effect on the run and is told.

A class of arguments declares which count, as ``counted_within_run``; a test compares that with what a run reads.
"""

from __future__ import annotations

import logging
from typing import Any

logger: logging.Logger = logging.getLogger("trackside.trainer")

OF_STATE = ("max_steps", "logging_steps", "eval_steps", "save_steps")
"""Those that the state has, too, where a change counts at once."""

COUNTED = frozenset(
    {"batch_eval_metrics", "disable_tqdm", "eval_accumulation_steps", "eval_delay", "eval_do_concat_batches"}
    | {"eval_on_train", "eval_strategy", "gradient_accumulation_steps", "greater_is_better", "ignore_data_skip"}
    | {"include_for_metrics", "include_num_input_tokens_seen", "label_names", "limit_eval_batches"}
    | {"load_best_model_at_end", "logging_strategy", "metric_for_best_model", "on_stop_signal"}
    | {"per_device_eval_batch_size", "prediction_loss_only", "save_async", "save_on_each_node", "save_only_model"}
    | {"save_strategy", "skip_memory_metrics"}
)
"""Arguments that a run reads each time that it needs them, on both frameworks."""

NOT_OF_A_RUN = frozenset({"do_train", "do_eval", "do_predict", "logging_dir", "run_name"})
"""Arguments that scripts and callbacks read, and a run does not."""

READ_LATE = ("eval_on_start", "logging_first_step", "max_grad_norm", "seed")
"""Those that are read between on_train_begin and the end of the first update, so that on_train_begin may set them."""


def read_at_start(args: Any) -> list[str]:
    """Return the names of the arguments that a run reads when it begins, and never again; without a user's own."""
    own: Any = next(cls for cls in type(args).__mro__ if cls.__module__.partition(".")[0] == "trackside")
    others = own.counted_within_run | NOT_OF_A_RUN
    return [item.name for item in own.fields() if item.name not in others]


class ArgumentsOfRun:
    """The arguments of a run as they were when it began.

    Args:
        args: The trainer's arguments, which callbacks get, too.
    """

    def __init__(self, args: Any) -> None:
        self._args = args
        self._at_start = {name: getattr(args, name) for name in read_at_start(args)}
        self._saved = {name: value for name, value in args.to_dict().items() if name in self._at_start}
        self._values = [*vars(args).values()]

    def take_late(self) -> None:
        """Take the arguments that are read after on_train_begin as they are now."""
        late, values = self._at_start.keys() & READ_LATE, self._args.to_dict()
        self._at_start |= {name: getattr(self._args, name) for name in late}
        self._saved |= {name: values[name] for name in late}

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments that the run goes by, for its checkpoints: without changes that have no effect on it."""
        return {**self._args.to_dict(), **self._saved}

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
