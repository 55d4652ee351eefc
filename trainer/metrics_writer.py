"""What a trainer leaves behind in words: log records, metrics files, the state file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trackside.callbacks.bus.dispatcher import Dispatcher
from trackside.callbacks.state import TrainerState

from .checkpointing.store import write_atomically

logger = logging.getLogger("trackside.trainer")


class Records:
    """The part of a trainer that logs and writes results."""

    args: Any
    state: TrainerState
    dispatcher: Dispatcher

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add ``logs``, with the epoch and the step, to the history and send on_log."""
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.dispatcher.send("on_log", logs=logs)

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print metrics as a table, on the first process only."""
        if not self.state.is_world_process_zero:
            return
        width = max(map(len, metrics), default=0)
        print(f"***** {split} metrics *****")
        for name in sorted(metrics):
            value = metrics[name]
            print(
                f"  {name:<{width}} = {value:>12.4f}"
                if isinstance(value, float)
                else f"  {name:<{width}} = {value!s:>12}"
            )

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write metrics to ``{split}_results.json``, and add them to ``all_results.json`` if ``combined``."""
        if not self.state.is_world_process_zero:
            return
        folder = Path(self.args.output_dir)
        write_atomically(folder / f"{split}_results.json", _as_json(dict(metrics)))
        if combined:
            path = folder / "all_results.json"
            so_far = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            write_atomically(path, _as_json({**so_far, **metrics}))

    def report_costs(self, seconds: float) -> None:
        """Say which share of the run's ``seconds`` each callback took, the dearest first, at level INFO."""
        items = sorted(self.dispatcher.attachments.values(), key=lambda item: -item.seconds)
        shares = [f"{item.name} {item.seconds / seconds:.2%}" for item in items]
        total = sum(item.seconds for item in items)
        logger.info("callbacks took %.2f%% of %.1f s: %s", 100 * total / seconds, seconds, ", ".join(shares))

    def save_state(self) -> None:
        """Write the state to ``output_dir/trainer_state.json``."""
        if self.state.is_world_process_zero:
            write_atomically(Path(self.args.output_dir) / "trainer_state.json", _as_json(self.state.to_dict()))

    def store_flos(self) -> None:
        """Add the floating point operations since the last call to ``state.total_flos``."""


def _as_json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
