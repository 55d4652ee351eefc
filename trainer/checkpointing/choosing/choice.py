"""Choice of the checkpoint that a run goes on from, or of a fresh start."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...distributed.launcher import JobStore
from ...staging import address_of
from ..discovery import find_checkpoints, newest_resumable, newest_valid, resumable, run_id_of, tell
from ..manifest import BrokenCheckpointError, open_checkpoint
from ..names import STATE_FILE
from ..remote_output import RemoteOutput
from ..replacing import EarlierRuns, refuse_others
from .nodes import Nodes

logger: logging.Logger = logging.getLogger("trackside.trainer")

runs_begun: Counter[Path] = Counter()
"""Number of runs that this process has begun, by folder; identifies the entry of an earlier attempt of the job."""


class Choice:
    """Chooses once for each run; used by the processes that look into the output folder, see `Nodes`.

    Args:
        args: The training arguments.
        state: Gets the id of an earlier attempt of the run.
        nodes: The machines of the run.
        remote: The address that the run is uploaded to, if any.
        job_store: Returns the notes of the job, which its launcher keeps when it starts the processes again.

    Attributes:
        earlier: The runs that the new one replaces.
    """

    def __init__(
        self, args: Any, state: Any, nodes: Nodes, remote: RemoteOutput, job_store: Callable[[], JobStore | None]
    ) -> None:
        self._args = args
        self._state = state
        self._nodes = nodes
        self._remote = remote
        self._job_store = job_store
        self.earlier: EarlierRuns = EarlierRuns(None, state.run_id)

    def locate(self, wanted: str | Path | bool | None) -> Path | None:
        """Return the checkpoint to resume from; None for a fresh start.

        If the launcher restarted the job, the newest checkpoint of an earlier attempt takes precedence over ``wanted``.

        Args:
            wanted: A folder; True for the newest valid one in ``output_dir`` (a fresh start if there is none); None or
                False for a fresh start.

        Raises:
            CheckpointError: If the folder does not exist or does not verify, or if no checkpoint in it verifies.
            ArgumentError: If a fresh start would write into a folder that holds checkpoints of another run.
        """
        args, nodes = self._args, self._nodes
        begin = self._remote.begin
        nodes.each("the output folder", lambda: begin(is_resumed=bool(wanted), overwrites=args.overwrite_output_dir))
        folder = Path(args.output_dir).resolve()
        runs_begun[folder] += 1
        *before, name = [f"run-in/{folder}/{number + 1}" for number in range(runs_begun[folder])]
        # not for a trial: a restarted search may try other hyperparameters in it
        notes = None if self._state.is_hyper_param_search else self._job_store()
        if notes is None:
            return self._wanted(wanted)

        def read(*keys: str) -> list[str]:
            return [notes.get(key).decode() for key in keys if notes.check([key])]

        attempt = nodes.first("the earlier attempt", lambda: read(name))
        checkpoint = (self._of_earlier_attempt(attempt[0]) if attempt else None) or self._wanted(wanted)
        self.earlier.spare(nodes.first("the runs of this job", lambda: read(*before)))
        run_id = (checkpoint and run_id_of(checkpoint)) or self._state.run_id
        nodes.first("the note of this run", lambda: notes.set(name, run_id))
        return checkpoint

    def _of_earlier_attempt(self, run_id: str) -> Path | None:
        self._state.run_id = run_id
        self._nodes.each("the download", lambda: self._remote.fetch_newest(run_id))

        def find(last: float) -> Path | None:
            checkpoint, skipped = newest_valid(self._args.output_dir, run_id, last_step=last)
            tell(skipped)
            return checkpoint

        checkpoint = self._nodes.newest("the checkpoint of the earlier attempt", find)
        what = f"goes on from {checkpoint}" if checkpoint else "had saved nothing yet, and begins anew"
        logger.warning("this job was started again; it %s", what)
        return checkpoint

    def _wanted(self, wanted: str | Path | bool | None) -> Path | None:
        args, nodes, output_dir = self._args, self._nodes, Path(self._args.output_dir)
        replaces = args.overwrite_output_dir and not wanted
        self.earlier = EarlierRuns(output_dir if replaces and args.should_save else None, self._state.run_id)
        if wanted is True:
            nodes.each("the download", self._remote.fetch_newest)
            return nodes.newest("the newest checkpoint", lambda last: newest_resumable(output_dir, last))
        if wanted:
            found = nodes.newest("the checkpoint", lambda last: self._named(str(wanted)))
            return Path(wanted).expanduser() if nodes.are_apart else found
        if not replaces:
            nodes.each("the checkpoints of other runs", self._refuse_others)
        return None

    def _named(self, wanted: str) -> Path:
        """Return the checkpoint of that name; where there is none, tell those that are near."""
        path = self._remote.local(wanted)
        is_folder = path.is_dir() and not (path / STATE_FILE).is_file() and bool(find_checkpoints(path))
        if path.exists() and not is_folder:
            return resumable(open_checkpoint(path))
        names = ", ".join(found.name for found in find_checkpoints(path if is_folder else self._args.output_dir)[-3:])
        near = f"; {path if is_folder else self._args.output_dir} holds {names}" if names else ""
        newest = ", and resume_from_checkpoint=True takes the newest of output_dir" if names else ""
        reason = "is a folder of checkpoints, and not one of them" if is_folder else "does not exist"
        raise BrokenCheckpointError(path, f"{reason}{near}{newest}")

    def _refuse_others(self) -> None:
        """Raise ArgumentError if a fresh start would write beside the checkpoints of another run."""
        output_dir = self._args.output_dir
        found = {path.name: run_id_of(path) for path in find_checkpoints(output_dir)} | self._remote.run_ids()
        refuse_others(found, self._state.run_id, address_of(output_dir))
