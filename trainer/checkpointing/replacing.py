"""What earlier runs left in an output folder, and a run with ``overwrite_output_dir`` replaces."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from trackside.callbacks.errors import ArgumentError

from .discovery import run_id_of, subfolders
from .names import STATE_FILE, is_checkpoint
from .store import CheckpointStore

RESULTS = (
    *(STATE_FILE, "train_results.json", "eval_results.json", "test_results.json", "all_results.json"),
    *("predictions.npz", "loss_curve.png", "log.csv", "log.jsonl", "journal.jsonl"),
)
"""Files that a run of trackside writes into its folder, besides checkpoints and the model."""


class EarlierRuns:
    """The runs whose checkpoints are in a folder now.

    They are removed once the new run has a checkpoint of its own, or has ended without one, so that a run which fails
    at its first step replaces nothing.

    Args:
        output_dir: The folder; None if nothing is replaced.
        run_id: The id of the new run.
    """

    def __init__(self, output_dir: Path | None, run_id: str) -> None:
        folders = [] if output_dir is None else subfolders(output_dir)
        found = (run_id_of(path) for path in folders if is_checkpoint(path.name))
        self.run_ids: set[str] = {name for name in found if name is not None} - {run_id}
        self._began_s = time.time()

    def spare(self, run_ids: Iterable[str]) -> None:
        """Leave these runs where they are."""
        self.run_ids.difference_update(run_ids)

    def remove(self, store: CheckpointStore) -> None:
        """Remove the checkpoints of these runs and their results; only what trackside wrote, and only once."""
        if not self.run_ids:
            return
        store.remove_runs(self.run_ids)
        self.run_ids = set()
        for name in RESULTS:
            path = store.output_dir / name
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < self._began_s:  # else the new run has written it already
                    path.unlink()


def refuse_others(run_ids: Mapping[str, str | None], own: str, output_dir: str) -> None:
    """Raise ArgumentError if a fresh start would write beside the checkpoints of another run.

    Args:
        run_ids: The run of each checkpoint that is there, by name.
        own: The id of the run that starts.
        output_dir: The folder or the address, for the message.
    """
    for name in (name for name, run_id in run_ids.items() if run_id != own):
        raise ArgumentError(
            "output_dir",
            output_dir,
            f"it holds checkpoints of another run ({name}); set resume_from_checkpoint=True to go on from them, "
            "overwrite_output_dir=True to start afresh, or another output_dir",
        )
