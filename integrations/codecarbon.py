"""CodeCarbon: the energy that a run took, and the carbon dioxide that came with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trackside.callbacks.state import TrainerState

from ._base.tracker import Status, Tracker


class CodeCarbonCallback(Tracker):
    """Write the energy and emissions of every training to ``output_dir/emissions.csv``; asks no service.

    Args:
        country_iso_code: Where the machine stands, of which the electricity's mix depends, as three letters.
        measure_power_secs: Seconds between two measurements.

    Raises:
        MissingPackageError: If CodeCarbon is not installed.

    Units:
        In the file: energy in kWh, emissions in kg.
    """

    name = "codecarbon"
    package = "codecarbon"
    extra = "codecarbon"

    def __init__(self, country_iso_code: str = "USA", *, measure_power_secs: float = 15.0) -> None:
        super().__init__()
        self.country_iso_code = country_iso_code
        self.measure_power_secs = measure_power_secs
        self.emissions_kg: float | None = None
        """Of the last training."""
        self._tracker: Any = None

    def open(self, args: Any, state: TrainerState, is_known: bool, **kwargs: Any) -> None:
        """Begin to measure."""
        from codecarbon import OfflineEmissionsTracker

        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=self.country_iso_code,
            measure_power_secs=self.measure_power_secs,
            output_dir=str(folder),
            project_name=getattr(args, "run_name", None) or folder.resolve().name,
            log_level="error",
            allow_multiple_runs=True,
        )
        self._tracker.start()

    def write(self, values: dict[str, float], step: int) -> None:
        """Do nothing: records are for other trackers."""

    def last_step(self, name: str) -> int:
        """Return -1: there are no curves."""
        return -1

    def close(self, status: Status, state: TrainerState) -> None:
        """End measuring and write the result."""
        self.emissions_kg = self._tracker.stop()
        self._tracker = None
