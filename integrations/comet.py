"""Comet, offline and online."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker, values_of

MESSAGES = "messages.json"
"""What holds the metrics in a zip file; that of a run that was killed is empty."""

QUIET = {
    "log_code": False,
    "log_graph": False,
    "auto_param_logging": False,
    "auto_metric_logging": False,
    "auto_output_logging": False,
    "parse_args": False,
    "display_summary_level": 0,
}
"""What Comet would log by itself; the records are logged here, once."""


class CometCallback(Tracker):
    """Log to Comet: records as metrics, arguments as parameters.

    Offline, each part of a run becomes a zip file, which `comet upload` sends; a resumed run goes on with the same
    experiment.

    Args:
        project, workspace: As Comet takes them; None: as it is configured.
        run_name: None: ``args.run_name``.
        tags: Tags of the experiment.
        online: False writes zip files; None: online, as Comet is configured.
        offline_directory: Where zip files go; None: ``output_dir/comet``.

    Raises:
        MissingPackageError: If comet_ml is not installed.
    """

    name = "comet"
    package = "comet_ml"
    extra = "comet"

    def __init__(
        self,
        *,
        project: str | None = None,
        workspace: str | None = None,
        run_name: str | None = None,
        tags: Sequence[str] = (),
        online: bool | None = None,
        offline_directory: str | None = None,
    ) -> None:
        super().__init__()
        self.options = {"project_name": project, "workspace": workspace}
        self.run_name = run_name
        self.tags = list(tags)
        self.online = online is not False
        self.offline_directory = offline_directory
        self._experiment: Any = None
        self._folder = Path()
        self._last_steps: dict[str, int] | None = None

    def open(self, args: Any, state: TrainerState, is_known: bool, **kwargs: Any) -> None:
        """Start an experiment, or go on with the one of this key."""
        self._folder = Path(self.offline_directory or Path(args.output_dir) / "comet").resolve()
        self._last_steps = None
        self._experiment = self._start(is_known)
        name = self.run_name or getattr(args, "run_name", None)
        if name:
            self._experiment.set_name(name)
        if self.tags:
            self._experiment.add_tags(self.tags)
        self._experiment.log_parameters(values_of(args), nested_support=False)

    def _start(self, is_known: bool) -> Any:
        import comet_ml

        if not self.online:
            self._folder.mkdir(parents=True, exist_ok=True)
            options = {**self.options, **QUIET, "offline_directory": str(self._folder)}
            if is_known and next(self._zips(), None) is not None:
                options.pop("offline_directory")
                existing = comet_ml.ExistingOfflineExperiment(previous_experiment=self.run_id, **options)
                existing.offline_directory = str(self._folder)
                return existing
            return comet_ml.OfflineExperiment(experiment_key=self.run_id, **options)
        config = comet_ml.ExperimentConfig(**QUIET)
        mode = "get" if is_known else "create"
        return comet_ml.start(
            **self.options, online=True, mode=mode, experiment_key=self.run_id, experiment_config=config
        )

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._experiment.log_metric(name, value, step=step)

    def last_step(self, name: str) -> int:
        """Return the last step of a curve: in the zip files of an offline experiment, or on Comet's server."""
        if self.online:
            import comet_ml

            points = comet_ml.APIExperiment(previous_experiment=self.run_id).get_metrics(name)
            return max((int(point["step"] or 0) for point in points), default=-1)
        if self._last_steps is None:
            self._last_steps = {}
            for path in self._zips():
                for metric, step, _ in read_metrics(path):
                    self._last_steps[metric] = max(self._last_steps.get(metric, -1), step)
        return self._last_steps.get(name, -1)

    def close(self, status: Status, state: TrainerState) -> None:
        """End the experiment, with how it ended."""
        self._experiment.log_other("status", status)
        if state.stop_reason:
            self._experiment.log_other("stop_reason", state.stop_reason)
        self._experiment.end()
        self._experiment = None

    def _zips(self) -> Iterator[Path]:
        return (path for path in self._folder.glob(f"{self.run_id}*.zip") if MESSAGES in _names_in(path))


def read_metrics(path: Path) -> Iterator[tuple[str, int, float]]:
    """Yield name, step and value of every metric in an offline experiment's zip file."""
    with zipfile.ZipFile(path) as archive, archive.open(MESSAGES) as lines:
        for line in lines:
            message = json.loads(line)
            metric = message.get("payload", {}).get("metric") if message.get("type") == "metric_msg" else None
            if metric:
                payload = message["payload"]
                yield metric["metricName"], int(payload.get("step") or metric.get("step") or 0), metric["metricValue"]


def _names_in(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()
