"""Log records, metrics files and the state file of a trainer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from trackside.callbacks._util.atomic_files import write_atomically
from trackside.callbacks._util.plain_data import copy_plain, plain, to_json
from trackside.callbacks.builtin.printer import print_text
from trackside.callbacks.bus.attachment import Attachment
from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.bus.view import current_call
from trackside.callbacks.errors import TracksideTypeError
from trackside.callbacks.state import TrainerState

from .checkpointing.names import STATE_FILE

logger: logging.Logger = logging.getLogger("trackside.trainer")

TOLD_ELSEWHERE = ("loss", "train_loss", "grad_norm")
"""Numbers of a training record that are not finite if a loss is not, which is told with its update and batch."""


class MetricsWriter:
    """Writes records and metrics into the history of a run, into files, and to the terminal.

    Args:
        trainer: Its ``args`` have the output folder; its ``state`` holds the history.
        dispatcher: Sends on_log.
    """

    def __init__(self, trainer: Any, dispatcher: Dispatcher) -> None:
        self._trainer = trainer
        self._dispatcher = dispatcher
        self._told: set[str] = {*TOLD_ELSEWHERE}

    def log(self, logs: dict[str, float]) -> None:
        """Add ``logs``, with the epoch and the step, to the history as plain data, and send on_log.

        What a callback in the background logs belongs to the step that it heard of; the thread of the run writes it.

        Raises:
            NotPlainError: If a value cannot be kept, unless an observer gives it.
            TracksideTypeError: If ``logs`` is not a dict.
        """
        if not isinstance(logs, Mapping):
            raise TracksideTypeError(f"log() takes a dict of values by name, not {type(logs).__name__}")
        logs = logs if isinstance(logs, dict) else dict(logs)
        call, trainer = current_call.value, self._trainer
        if call is not None and call.trainer is trainer:
            call.leave(partial(self._write, copy_plain(logs), call.state))
        else:
            self._write(logs, trainer.state)

    def _write(self, logs: dict[str, float], state: TrainerState) -> None:
        if state.epoch is not None:
            logs["epoch"] = state.epoch
        record = self._dispatcher.as_plain(logs, "log()")
        self._tell_not_finite(record, state.global_step)
        self._trainer.state.log_history.append({**record, "step": state.global_step})
        self._dispatcher.send_log(record, state)

    def _tell_not_finite(self, record: Mapping[str, Any], step: int) -> None:
        """Warn, once for each name, of a number that is not finite, unless the trainer tells of it elsewhere."""
        for name, value in record.items():
            if isinstance(value, float) and value - value != 0.0 and name not in self._told:
                self._told.add(name)
                if not name.startswith("eval_") and self._trainer.state.is_world_process_zero:
                    logger.warning(
                        "%s is %s in the record of step %d: records and trackers keep it, and what judges by it passes "
                        "a NaN over; this is told once",
                        *(name, value, step),
                    )

    def tell_of_nothing(self, loss: float, steps: int, empty: int) -> None:
        """Warn if nothing was learned in a run of ``steps`` updates: if nothing counted in any, or each loss was 0."""
        if not steps or not self._trainer.state.is_world_process_zero:
            return
        if empty == steps:
            self._told.add("train_loss")
            logger.warning(
                "nothing was learned: in none of the %d updates did a label count, since all are ignored (-100), "
                "masked or weighted by 0, or the updates were skipped; train_loss is %s",
                *(steps, loss),
            )
        elif loss == 0.0:
            logger.warning(
                "train_loss is exactly 0 over %d updates, so that nothing may have been learned: the weights of the "
                "examples or labels may all be 0",
                steps,
            )

    def print_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print metrics as a table, on the first process only."""
        if not self._trainer.state.is_world_process_zero:
            return
        metrics = plain(metrics, "metrics", rest=str)
        width = max(map(len, metrics), default=0)
        print_text(f"***** {split} metrics *****")
        for name in sorted(metrics):
            value = metrics[name]
            text = f"{value:>12.4f}" if isinstance(value, float) else f"{value!s:>12}"
            print_text(f"  {name:<{width}} = {text}")

    def save_metrics(self, split: str, metrics: Mapping[str, Any], *, combined: bool) -> None:
        """Write metrics to ``{split}_results.json``, and add them to ``all_results.json`` if ``combined``."""
        if not self._trainer.state.is_world_process_zero:
            return
        metrics = plain(metrics, "metrics")
        self._write_json(f"{split}_results.json", metrics)
        if combined:
            path = Path(self._trainer.args.output_dir) / "all_results.json"
            so_far = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            self._write_json(path.name, {**so_far, **metrics})

    def save_state(self) -> None:
        """Write the state to ``output_dir/trainer_state.json``."""
        if self._trainer.state.is_world_process_zero:
            self._write_json(STATE_FILE, self._trainer.state.to_dict())

    def report_costs(self, seconds: float) -> None:
        """Log at level INFO the share of the run's ``seconds`` that each callback took, the most expensive first."""
        items = sorted(self._dispatcher.attachments.values(), key=lambda item: -item.seconds)
        shares = ", ".join(f"{item.name} {item.seconds / seconds:.2%}{_in_background(item)}" for item in items)
        total = sum(item.seconds for item in items)
        logger.info("callbacks took %.2f%% of %.1f s: %s", 100 * total / seconds, seconds, shares)

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        folder = Path(self._trainer.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, to_json(values, name, indent=2) + "\n")


def _in_background(item: Attachment) -> str:
    if item.thread is None:
        return ""
    dropped = f", {item.dropped} calls left out" if item.dropped else ""
    return f" ({item.background_s:.1f} s in the background{dropped})"
