"""MLflow: database, file store or server."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker, values_of

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

MAX_VALUE = 6000
"""Longer parameters are cut; all arguments are then kept as a file too."""

BATCH = 100
"""So many parameters go into one request."""

ID_TAG = "trackside.id"


class MLflowCallback(Tracker):
    """Log to MLflow: records as metrics, arguments as parameters, and the status with which the run really ended.

    A resumed run goes on with the same MLflow run. Nothing of MLflow's own global state is used or changed.

    Args:
        tracking_uri: A database ("sqlite:///mlflow.db"), a folder or a server; None: as MLflow is configured.
        experiment: Name of the experiment; None: as MLFLOW_EXPERIMENT_NAME says, else "Default".
        run_name: None: ``args.run_name``.
        tags: Tags of the run.

    Raises:
        MissingPackageError: If MLflow is not installed.
    """

    name = "mlflow"
    package = "mlflow"
    extra = "mlflow"

    def __init__(
        self,
        tracking_uri: str | None = None,
        *,
        experiment: str | None = None,
        run_name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.run_name = run_name
        self.tags = dict(tags or {})
        self._client: Any = None

    def open(self, args: Any, state: TrainerState, is_known: bool, **kwargs: Any) -> None:
        """Start a run, or go on with the one of this id."""
        from mlflow import MlflowClient  # takes seconds

        self._client = MlflowClient(self.tracking_uri)
        experiment_id = self._experiment_id()
        found = self._find(experiment_id) if is_known else None
        if found is None:
            name = self.run_name or getattr(args, "run_name", None) or Path(args.output_dir).resolve().name
            tags = {**self.tags, ID_TAG: str(self.run_id)}
            self.run_id = self._client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
            self._log_params(values_of(args), {})
        else:
            self.run_id = found.info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
            self._log_params(values_of(args), found.data.params)

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(allowed_name(name), value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def last_step(self, name: str) -> int:
        """Return the last step of a curve in the run."""
        history = self._client.get_metric_history(self.run_id, allowed_name(name))
        return max((point.step for point in history), default=-1)

    def close(self, status: Status, state: TrainerState) -> None:
        """End the run."""
        if state.stop_reason:
            self._client.set_tag(self.run_id, "trackside.stop_reason", state.stop_reason)
        self._client.set_terminated(self.run_id, STATUSES[status])

    def _experiment_id(self) -> str:
        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _find(self, experiment_id: str) -> Any:
        """Return the run of a checkpoint, which may have been saved before MLflow had named the run."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(self.run_id)
        except MlflowException:
            found = self._client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{self.run_id}'", max_results=1)
            return found[0] if found else None

    def _log_params(self, values: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Log the arguments; MLflow lets nobody change a parameter, so that one that changed becomes a tag."""
        from mlflow.entities import Param, RunTag

        texts = {allowed_name(name): str(value) for name, value in values.items()}
        cut = {name: text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..." for name, text in texts.items()}
        new = [Param(name, text) for name, text in cut.items() if name not in known]
        changed = [RunTag(f"resumed.{name}", text) for name, text in cut.items() if known.get(name, text) != text]
        for params in _batches(new):
            self._client.log_batch(self.run_id, params=params)
        for tags in _batches(changed):
            self._client.log_batch(self.run_id, tags=tags)
        if cut != texts:
            self._client.log_dict(self.run_id, dict(values), "arguments.json")


def allowed_name(name: str) -> str:
    """Return ``name`` with what MLflow rejects in names replaced.

    Example:
        >>> allowed_name("eval/f1@0.5")
        'eval/f1_0.5'
    """
    return re.sub(r"[^\w\-./ :]", "_", name)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
