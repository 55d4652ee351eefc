"""CodeCarbon integration: energy and carbon emissions of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker, run_name_of


class CodeCarbonCallback(Tracker):
    """Write the energy and emissions of every training to ``output_dir/emissions.csv``, without any online service.

    Args:
        country_iso_code: Three-letter code of the machine's country, which determines the emissions per kWh.
        measure_power_secs: Seconds between two measurements.

    Attributes:
        emissions_kg: Emissions of the last training; None before its end.

    Raises:
        MissingPackageError: If CodeCarbon is not installed.

    Units:
        In the file: energy in kWh, emissions in kg of carbon dioxide equivalent.
    """

    name: str | None = "codecarbon"
    package: str = "codecarbon"

    def __init__(self, country_iso_code: str = "USA", *, measure_power_secs: float = 15.0) -> None:
        super().__init__()
        self.country_iso_code = country_iso_code
        self.measure_power_secs = measure_power_secs
        self.emissions_kg: float | None = None
        self._tracker: Any = None

    def open(self, args: Any, state: TrainerState, resume: bool, **kwargs: Any) -> None:
        """Start measuring."""
        from codecarbon import OfflineEmissionsTracker

        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=self.country_iso_code,
            measure_power_secs=self.measure_power_secs,
            output_dir=str(folder),
            project_name=run_name_of(args),
            log_level="error",
            allow_multiple_runs=True,
        )
        self._tracker.start()

    def write(self, values: dict[str, float], step: int) -> None:
        """Do nothing, because CodeCarbon takes no metrics."""

    def close(self, status: Status, state: TrainerState) -> None:
        """Stop measuring and write the result."""
        emissions_kg = self._tracker.stop()
        self._tracker = None
        if self._is_training:
            self.emissions_kg = emissions_kg
