"""MLflow integration, with a database, a file store or a server."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from trackside.callbacks.bus.view import in_thread_of_run
from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker, run_name_of, values_of
from ._compat.mlflow_fluent import chosen_experiment

logger: logging.Logger = logging.getLogger("trackside.integrations")

STATUSES = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}

MAX_VALUE = 6000
"""Longest value of a parameter, in characters. Longer ones are cut, and all arguments are logged as a file, too."""

MAX_NAME = 250
"""Longest name of a metric or parameter, in characters. Longer ones are cut, and end with a part of their hash."""

BATCH = 100
"""Parameters in one request."""

ID_TAG = "trackside.id"
"""Tag with the id that a checkpoint holds if it was saved before MLflow had given the run an id."""


class MLflowCallback(Tracker):
    """Log to MLflow: records as metrics, arguments as parameters, and how the run ended as status.

    A resumed run continues the same MLflow run. While training, that is the active run of MLflow in the thread of the
    run, so that ``mlflow.log_metric`` in a callback adds to it; unless another run is active there, which stays so, or
    MLflow is configured for another ``tracking_uri``.

    Args:
        tracking_uri: URI of a database ("sqlite:///mlflow.db"), a folder or a server; None: as MLflow is configured.
        experiment: Name of the experiment; None: that of `mlflow.set_experiment`, else the environment variable
            MLFLOW_EXPERIMENT_NAME, else "Default".
        run_name: Name of the run; None: ``args.run_name``, or the name of ``args.output_dir``.
        tags: Tags of the run.

    Raises:
        MissingPackageError: If MLflow is not installed.
    """

    name: str | None = "mlflow"
    package: str = "mlflow"
    waits_at: frozenset[str] = frozenset({"on_train_begin"})  # a callback may log to the active run at the first step

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
        self.tags: dict[str, str] = dict(tags or {})
        self._client: Any = None
        self._names: dict[str, str] = {}
        self._refused: set[str] = set()

    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Start a run, or continue the one whose id is ``run_id``."""
        from mlflow import MlflowClient  # takes seconds

        self._client = MlflowClient(self.tracking_uri)
        experiment_id = self._experiment_id()
        found = self._find(experiment_id) if resume else None
        if found is None:
            tags = {**self.tags, ID_TAG: str(self.run_id)}
            created = self._client.create_run(experiment_id, run_name=run_name_of(args, self.run_name), tags=tags)
            self.run_id = created.info.run_id
            self._log_params(values_of(args), {})
        else:
            self.run_id = found.info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
            self._log_params(values_of(args), found.data.params)
        if self._is_training:
            in_thread_of_run(self._activate)

    @property
    def _is_default_uri(self) -> bool:
        """Whether MLflow's own functions use the same store."""
        import mlflow

        return self.tracking_uri is None or str(self.tracking_uri) == mlflow.get_tracking_uri()

    def _activate(self) -> None:
        """Make the run that of ``mlflow.log_metric`` in this thread, unless there is another."""
        import mlflow

        if self._is_default_uri and mlflow.active_run() is None:
            try:
                mlflow.start_run(run_id=self.run_id)
            except mlflow.exceptions.MlflowException as error:
                logger.warning("mlflow.log_metric() of callbacks will not go to the run of the training: %s", error)

    def _deactivate(self, run_id: str, status: str) -> None:
        import mlflow

        active = mlflow.active_run()
        if active is not None and active.info.run_id == run_id:
            mlflow.end_run(status)

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve; what MLflow refuses costs that curve only."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        now_ms = int(time.time() * 1000)
        metrics = [Metric(self._shown_as(name), value, now_ms, step) for name, value in values.items()]
        try:
            self._client.log_batch(self.run_id, metrics=metrics)
        except MlflowException as error:
            refused = [metric.key for metric in metrics if not self._is_written(metric)]
            if len(refused) == len(metrics):
                raise
            for name in set(refused) - self._refused:
                logger.warning("MLflow refuses the metric %r, which is left out: %s", name, error)
            self._refused.update(refused)

    def _is_written(self, metric: Any) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self.run_id, metrics=[metric])
        except MlflowException:
            return False
        return True

    def _shown_as(self, name: str) -> str:
        """Return the name of a curve in MLflow; curves whose names MLflow would make equal get numbers."""
        if name not in self._names:
            base = free = allowed_name(name)
            number = 2
            while free in self._names.values():
                free, number = f"{base}_{number}", number + 1
            if free != base:
                logger.warning("MLflow has no name for %r that differs from others; it is shown as %r", name, free)
            self._names[name] = free
        return self._names[name]

    def last_step(self, name: str) -> int:
        """Return the last step of a curve, as MLflow knows it."""
        history = self._client.get_metric_history(self.run_id, self._shown_as(name))
        return max((point.step for point in history), default=-1)

    def close(self, status: Status, state: TrainerState) -> None:
        """End the run with its status, and log the reason for stopping."""
        if state.stop_reason:
            self._client.set_tag(self.run_id, "trackside.stop_reason", state.stop_reason)
        self._client.set_terminated(self.run_id, STATUSES[status])
        in_thread_of_run(partial(self._deactivate, str(self.run_id), STATUSES[status]))

    def _experiment_id(self) -> str:
        if self.experiment is None and self._is_default_uri and (chosen := chosen_experiment()):
            return chosen
        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _find(self, experiment_id: str) -> Any:
        """Return the run whose id, or else whose tag, is ``run_id``; None if there is neither."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(self.run_id)
        except MlflowException:
            found = self._client.search_runs([experiment_id], f"tags.`{ID_TAG}` = '{self.run_id}'", max_results=1)
            return found[0] if found else None

    def _log_params(self, values: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Log the arguments; one that changed becomes a tag, because MLflow refuses to change a parameter."""
        from mlflow.entities import Param, RunTag

        texts = {allowed_name(name): str(value) for name, value in values.items()}
        cut = {name: text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..." for name, text in texts.items()}
        new = [Param(name, text) for name, text in cut.items() if name not in known]
        changed = [RunTag(f"resumed.{name}", text) for name, text in cut.items() if known.get(name, text) != text]
        for kind, items in (("params", new), ("tags", changed)):
            for start in range(0, len(items), BATCH):
                self._client.log_batch(self.run_id, **{kind: items[start : start + BATCH]})
        if cut != texts:
            self._client.log_dict(self.run_id, dict(values), "arguments.json")


def allowed_name(name: str) -> str:
    """Return ``name`` as MLflow takes it: other characters replaced, a unique path, not too long.

    Example:
        >>> allowed_name("eval/f1@0.5"), allowed_name("per//class/")
        ('eval/f1_0.5', 'per/class')
    """
    clean = re.sub(r"[^\w\-./ :]", "_", name)
    parts = [part for part in clean.split("/") if part not in ("", ".", "..")]
    clean = "/".join(parts) or "_"
    if len(clean) <= MAX_NAME:
        return clean
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{clean[: MAX_NAME - 9]}_{digest}"
