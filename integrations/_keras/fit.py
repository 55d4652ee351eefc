"""What the Keras adapters of one trainer share during a run: what ``Model.fit`` shares between its callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trackside.callbacks.metrics import SPEEDS

from .fitted_model import fitted
from .learning_rate import LearningRate

MEMORY = "_mem_"


@dataclass
class EndedEpoch:
    """An epoch whose on_epoch_end is due.

    Attributes:
        number: Its number, from 0.
        logs: The dict that all callbacks get, one after the other, so that each sees what those before it added.
        waits: Whether its evaluation has still to come.
    """

    number: int
    logs: dict[str, Any]
    waits: bool


@dataclass
class Fit:
    """One run, or one evaluation or prediction outside of a run.

    Attributes:
        model: The model that callbacks get.
        params: What ``set_params`` gets.
        rate: The learning rate of the optimizer.
        epoch: The current epoch, from 0.
        first_step: Updates completed before the first batch of this epoch.
        validation: The metrics of the evaluations in this epoch, under names that begin with ``val_``.
        ended: The newest epoch that ended.
        last: The adapter that is called last.
        is_run: Whether it is a run.
    """

    model: Any
    params: dict[str, Any]
    rate: LearningRate
    is_run: bool
    epoch: int = 0
    first_step: int = 0
    validation: dict[str, Any] = field(default_factory=dict)
    ended: EndedEpoch | None = None
    last: Any = None

    @classmethod
    def of(cls, args: Any, state: Any, context: Mapping[str, Any], *, is_run: bool) -> Fit:
        """Return a new one, with a model that is compiled with the trainer's optimizer and loss.

        Args:
            args, state: The training arguments and the state of the run.
            context: What the event gave by keyword.
            is_run: Whether a run begins.
        """
        optimizer, loss = context.get("optimizer"), getattr(context.get("trainer"), "loss_fn", None)
        loader, count = context.get("train_dataloader" if is_run else "eval_dataloader"), 1
        most = getattr(context.get("evaluation_batch"), "limit", None)
        if is_run:
            count = int(getattr(args, "gradient_accumulation_steps", 1))
            limits = (getattr(args, name, None) for name in ("overfit_batches", "limit_train_batches"))
            most = next(filter(None, limits), None)
        params = {
            "verbose": 0 if getattr(args, "disable_tqdm", False) else 1,
            "epochs": state.num_train_epochs if is_run else 1,
            "steps": _updates(loader, count, most),
        }
        rate = LearningRate(optimizer, context.get("lr_scheduler"), getattr(args, "lr_scheduler_type", "constant"))
        return cls(fitted(context.get("model"), optimizer, loss), params, rate, is_run)

    def begin_epoch(self, state: Any, current: Any) -> None:
        """Begin an epoch, or go on within one.

        Args:
            state: The state of the run.
            current: Knows the number of the epoch and its updates; None in a replay.
        """
        number, done = (int(state.epoch or 0), 0) if current is None else (current.number, current.updates)
        self.epoch, self.first_step, self.validation = number, state.global_step - done, {}

    def end_epoch(self, loss: float | None, *, waits: bool) -> None:
        """End the epoch with its mean loss, to which an evaluation that is still to come adds its metrics."""
        logs = {} if loss is None else {"loss": loss}
        self.ended = EndedEpoch(self.epoch, {**logs, **self.validation}, waits)

    def add_evaluation(self, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of an evaluation of the current epoch."""
        found = {f"val_{name}": value for name, value in plain_names(metrics, only="eval_").items()}
        self.validation |= found
        if self.ended is not None and self.ended.waits:
            self.ended.logs.update(found)
            self.ended.waits = False


def plain_names(metrics: Mapping[str, Any], only: str = "") -> dict[str, Any]:
    """Return metrics under Keras' names: without prefix, epoch, speed and memory.

    Args:
        only: The prefix of the metrics to return; without it all, whatever their prefix.

    Example:
        >>> plain_names({"eval_loss": 0.5, "eval_runtime": 1.0, "epoch": 2.0, "test_loss": 0.1}, only="eval_")
        {'loss': 0.5}
    """
    kept = {}
    for name, value in metrics.items():
        if name == "epoch" or name.endswith(SPEEDS) or MEMORY in name or not name.startswith(only):
            continue
        kept[name.partition("_")[2] or name] = value
    return kept


def _updates(loader: Any, micro_batches: int, most: int | None) -> int | None:
    """Return the updates in an epoch of ``loader``, of ``most`` batches at most; None if it has no length."""
    if isinstance(loader, dict):  # several evaluation datasets by name
        parts = [_updates(part, micro_batches, most) for part in loader.values()]
        return None if None in parts else sum(part for part in parts if part)
    try:
        batches = loader.num_batches() if hasattr(loader, "num_batches") else len(loader)
    except (TypeError, NotImplementedError):
        return None
    return None if batches is None else -(-min(int(batches), most or int(batches)) // micro_batches)
