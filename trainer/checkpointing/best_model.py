"""Best model of a run: its metric, improvements of the metric, and the best checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from trackside.callbacks.errors import ArgumentError, UnknownMetricError
from trackside.callbacks.metrics import WatchedMetric, evaluation_key, improves, is_undefined

from ..optim.lr_schedules import follows_metric
from .discovery import run_id_of
from .manifest import BrokenCheckpointError

logger: logging.Logger = logging.getLogger("trackside.trainer")


class BestModel:
    """Watches the metric that ``args.metric_for_best_model`` names.

    Args:
        trainer: Provides ``args``, ``state`` and ``control``.
        path_of: Returns the folder of the checkpoint of a step.
        load_weights: Loads the weights of a checkpoint.
    """

    def __init__(self, trainer: Any, path_of: Callable[[int], Path], load_weights: Callable[[Path], None]) -> None:
        self.trainer = trainer
        self._path_of = path_of
        self._load_weights = load_weights
        self._seen: set[str] = set()
        self.is_loaded: bool = False
        """Whether the last run ended with the weights of its best checkpoint."""

    @property
    def is_wanted(self) -> bool:
        """Whether the run keeps the best model."""
        args = self.trainer.args
        return bool(args.load_best_model_at_end or args.save_strategy == "best")

    @property
    def is_metric_needed(self) -> bool:
        """Whether the run depends on the metric."""
        return self.is_wanted or bool(self.trainer.args.lr_scheduler_type == "reduce_lr_on_plateau")

    def note(self, metrics: dict[str, float]) -> None:
        """Compare an evaluation with the best so far; request a checkpoint if it improved and the run keeps the best.

        Raises:
            UnknownMetricError: If the run depends on the metric and it is missing.
        """
        state, name = self.trainer.state, self.trainer.args.metric_for_best_model
        if name is None:
            return
        metric, value = WatchedMetric.of(self.trainer.args), self.value_of(name, metrics)
        if value is None or not improves(value, state.best_metric, greater_is_better=metric.greater_is_better):
            return
        state.best_metric = value
        state.best_global_step = state.global_step
        if self.is_wanted:
            state.best_model_checkpoint = str(self._path_of(state.global_step))
            self.trainer.control.request("should_save", f"{metric.key} has improved to {value:.6g}")

    def value_of(self, name: str, metrics: dict[str, float]) -> float | None:
        """Return a metric of an evaluation; None if it has no value there, or is missing after it was there before.

        Raises:
            UnknownMetricError: If the run depends on the metric, and no evaluation has had it.
        """
        key = evaluation_key(name)
        if key in metrics:
            self._seen.add(key)
        elif self.trainer.state.best_metric is None and key not in self._seen:
            self.check(metrics)
        value = metrics.get(key)
        return None if is_undefined(value) else _number(name, key, value)

    def check(self, metrics: dict[str, float] | None) -> None:
        """Check that a metric on which the run depends is a number among ``metrics`` (None: unknown).

        Raises:
            ArgumentError: If it is not a number.
            UnknownMetricError: If it is not there.
        """
        name = self.trainer.args.metric_for_best_model or "loss"
        value = (metrics or {}).get(key := evaluation_key(name))
        if self.is_metric_needed and value is not None:
            _number(name, key, value)
        if metrics is not None and self.is_metric_needed and key not in metrics:
            raise UnknownMetricError("metric_for_best_model", name, metrics)

    def forget_other(self, before: Mapping[str, Any]) -> None:
        """Forget the best of a resumed run that went by another metric or direction, also in a plateau schedule.

        Args:
            before: The arguments of the checkpoint by name; empty if it has none.
        """
        if "metric_for_best_model" not in before or self.trainer.args.metric_for_best_model is None:
            return
        was = WatchedMetric.of(SimpleNamespace(**{"greater_is_better": None, **before}))
        now, state, schedule = WatchedMetric.of(self.trainer.args), self.trainer.state, self.trainer.lr_scheduler
        if was == now:
            return
        if state.best_metric is not None and state.is_world_process_zero:
            told = (state.best_metric, state.best_global_step, was, now)
            logger.warning("the best so far, %.6g at step %s, was of %s; that of %s begins anew", *told)
        state.best_metric = state.best_global_step = state.best_model_checkpoint = None
        if follows_metric(schedule) and hasattr(schedule, "mode_worse"):
            schedule.best, schedule.num_bad_epochs = schedule.mode_worse, 0

    def look_for(
        self,
        run_id: str | None,
        *folders: Path,
        before: Mapping[str, Any],
        remote: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Look for the best checkpoint of a resumed run by its name and run id; the folder may have been moved.

        Args:
            run_id: The run that was resumed; None if its checkpoint has no manifest.
            folders: Where to look: the output folder, and the folder of the checkpoint that was resumed.
            before: See `forget_other`, which comes first.
            remote: Returns the run of each checkpoint that can be downloaded into the output folder, by name.
        """
        self.forget_other(before)
        state = self.trainer.state
        if state.best_model_checkpoint is None:
            return
        name = Path(state.best_model_checkpoint).name
        found = [folder / name for folder in folders if (folder / name).is_dir() and run_id_of(folder / name) == run_id]
        state.best_model_checkpoint = str((found or [folders[0] / name])[0])
        if not found and self.is_wanted and state.is_world_process_zero and remote().get(name) != run_id:
            places = " or ".join(dict.fromkeys(map(str, folders)))
            logger.warning("the best checkpoint of this run so far, %s, is not in %s", name, places)

    def load(self) -> None:
        """Load the weights of the best checkpoint; keep the last weights if it is missing or does not verify."""
        self.is_loaded = False
        path = self.trainer.state.best_model_checkpoint
        if path is None:
            logger.warning("load_best_model_at_end: no evaluation gave a best model; the last one stays")
            return
        try:
            self._load_weights(Path(path))
        except BrokenCheckpointError as error:  # raised on every process, before anything is loaded
            logger.warning("load_best_model_at_end: the last weights stay, since the best %s", error)
        else:
            self.is_loaded = True


def _number(name: str, key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ArgumentError("metric_for_best_model", name, f"a metric that is one number; {key} is {value!r}") from None
