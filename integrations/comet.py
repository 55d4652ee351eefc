"""Comet integration, online and offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker, values_of
from ._compat.comet_archive import archives, global_experiment_kept, read_last_steps, use_own_suffixes

QUIET: dict[str, Any] = {
    "log_code": False,
    "log_graph": False,
    "auto_param_logging": False,
    "auto_metric_logging": False,
    "auto_output_logging": False,
    "parse_args": False,
    "display_summary_level": 0,
}
"""Options that turn off what Comet logs by itself, so that records and arguments are logged once."""


class CometCallback(Tracker):
    """Log to Comet: records as metrics, arguments as parameters.

    Offline, each part of a run becomes a zip file, which `comet upload` sends. A resumed run continues the same
    experiment.

    An experiment that you have opened stays open, and the one that `comet_ml.get_running_experiment` returns; without
    one, that is the experiment of the run.

    Args:
        project, workspace: Where the experiment goes; None: as Comet is configured.
        run_name: Name of the experiment; None: ``args.run_name``.
        tags: Tags of the experiment.
        online: False writes zip files; None: online, as Comet is configured.
        offline_directory: Folder of the zip files; None: ``output_dir/comet``.

    Raises:
        MissingPackageError: If comet_ml is not installed.
    """

    name: str | None = "comet"
    package: str = "comet_ml"

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
        self.options: dict[str, Any] = {"project_name": project, "workspace": workspace}
        self.run_name = run_name
        self.tags: list[str] = list(tags)
        self.online: bool = online is not False
        self.offline_directory = offline_directory
        self._experiment: Any = None
        self._folder = Path()

    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Start an experiment, or continue the one whose key is ``run_id``."""
        self._folder = Path(self.offline_directory or Path(args.output_dir) / "comet").expanduser().resolve()
        with global_experiment_kept():
            self._experiment = self._start(resume)
        name = self.run_name or getattr(args, "run_name", None)
        if name:
            self._experiment.set_name(name)
        if self.tags:
            self._experiment.add_tags(self.tags)
        self._experiment.log_parameters(values_of(args), nested_support=False)

    def _start(self, resume: bool) -> Any:
        import comet_ml

        if self.online:
            mode, config = "get" if resume else "create", comet_ml.ExperimentConfig(**QUIET)
            return comet_ml.start(
                **self.options, online=True, mode=mode, experiment_key=self.run_id, experiment_config=config
            )
        use_own_suffixes()
        self._folder.mkdir(parents=True, exist_ok=True)
        resume = resume and bool(archives(self._folder, str(self.run_id)))
        start = comet_ml.ExistingOfflineExperiment if resume else comet_ml.OfflineExperiment
        return start(experiment_key=self.run_id, offline_directory=str(self._folder), **self.options, **QUIET)

    def write(self, values: dict[str, float], step: int) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._experiment.log_metric(name, value, step=step)

    def last_steps(self) -> Mapping[str, int] | None:
        """Return the last steps in the zip files of an offline experiment."""
        return {} if self.online else read_last_steps(self._folder, str(self.run_id))

    def last_step(self, name: str) -> int | None:
        """Return the last step of a curve: in the zip files if offline, else on Comet's server."""
        if not self.online:
            return super().last_step(name)
        import comet_ml

        points = comet_ml.APIExperiment(previous_experiment=self.run_id).get_metrics(name)
        return max((int(point["step"] or 0) for point in points), default=-1)

    def close(self, status: Status, state: TrainerState) -> None:
        """End the experiment, and log its status and the reason for stopping."""
        self._experiment.log_other("status", status)
        if state.stop_reason:
            self._experiment.log_other("stop_reason", state.stop_reason)
        self._experiment.end()
        self._experiment = None
