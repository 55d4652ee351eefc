"""Remote output: what a trainer does with an ``output_dir`` that is an address, and with checkpoints at addresses.

The trainer writes into a local staging folder as into any other; this module downloads what is resumed from, and
uploads what was written. Without an address, there is nothing to do but to lock the local folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import ArgumentError, CheckpointError

from ..staging import StagingFolder, is_address
from .discovery import commit_time_of, newest_valid, run_id_of
from .locks.address_lock import locked_address
from .locks.run_lock import locked
from .manifest import BrokenCheckpointError, logger, role_of
from .names import COMMITTED
from .remote import RemoteFolder, is_kept_apart
from .uploads import Uploads


class RemoteOutput:
    """The remote folder of one run, if it has one.

    Args:
        args: The training arguments.

    Raises:
        MissingPackageError, ArgumentError: See `RemoteFolder`.
    """

    def __init__(self, args: Any) -> None:
        self.output_dir: Path = Path(args.output_dir)
        self.staging_dir: str | None = args.staging_dir
        self.folder: RemoteFolder | None = None
        self.uploads: Uploads | None = None
        if isinstance(args.output_dir, StagingFolder):
            self._check_shards(args)
            self.folder = RemoteFolder(args.output_dir.address)
            self.uploads = Uploads(self.folder, self.output_dir, args.save_total_limit)

    @staticmethod
    def _check_shards(args: Any) -> None:
        """Raise ArgumentError if several machines would write the shards of one checkpoint into different folders."""
        on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", args.world_size))
        if args.fsdp and args.staging_dir is None and on_this_machine < args.world_size:
            allowed = "a folder that all machines share, for fsdp with a remote output_dir"
            raise ArgumentError("staging_dir", None, allowed)

    @contextmanager
    def locked(self, output_dir: Path, run_id: str, *, is_needed: bool) -> Iterator[None]:
        """Return a context in which a run holds the local folder, and the address; see `run_lock.locked`."""
        at_address = nullcontext() if self.folder is None else locked_address(self.folder, run_id)
        with locked(output_dir, run_id, is_needed=is_needed), at_address:
            yield

    # -- before a run -----------------------------------------------------------------------------------------------

    def begin(self, *, is_resumed: bool, overwrites: bool) -> None:
        """Check that the address can be written to; on resume, download the logs that the run appends to.

        Raises:
            ArgumentError: If it cannot be written to.
        """
        if self.folder is None or self.uploads is None:
            return
        self.folder.probe()
        self.uploads.replaces_others = overwrites and not is_resumed
        if is_resumed:
            self.folder.clean()
            self.folder.download_files(self.output_dir, lambda name: role_of(name) != "weights")

    def fetch_newest(self, run_id: str | None = None) -> None:
        """Download the newest checkpoint (of a run) that verifies, unless the local folder has a newer one.

        Raises:
            CheckpointError: If no checkpoint at the address can be downloaded, and the local folder has none.
        """
        if self.folder is None:
            return
        found = self.folder.checkpoints()
        local, _ = newest_valid(self.output_dir, run_id)
        newest_here = -1 if local is None else commit_time_of(local)
        reasons = []
        for name, manifest in reversed(found.items()):
            if run_id not in (None, manifest["run_id"]):
                continue
            if manifest["committed_at"] <= newest_here:
                return
            try:
                self.folder.download(name, self.output_dir)
                return
            except BrokenCheckpointError as error:
                logger.warning("skipped %s: %s", error.path, error.reason)
                reasons.append(f"{name}: {error.reason}")
        if reasons and local is None:
            raise CheckpointError(f"no checkpoint in {self.folder.address} verifies ({'; '.join(reasons)})")

    def run_ids(self) -> dict[str, str]:
        """Return the id of the run of each checkpoint at the address, by name."""
        found = {} if self.folder is None else self.folder.checkpoints()
        return {name: manifest["run_id"] for name, manifest in found.items()}

    # -- reading ----------------------------------------------------------------------------------------------------

    def is_elsewhere(self, folder: str | Path) -> bool:
        """Return whether a folder may have to be downloaded: it is at an address, or below that of the run."""
        return is_address(folder) or self.folder is not None

    def local(self, folder: str | Path) -> Path:
        """Return the local copy of a folder, which is downloaded if it is at an address and not here yet.

        Raises:
            CheckpointError: If it does not exist, or does not verify.
        """
        path = Path(folder).expanduser()
        if is_address(folder):
            return self._downloaded(str(folder).rstrip("/"))
        if self.folder is not None and path.parent == self.output_dir and not path.exists():
            return self.folder.download(path.name, self.output_dir)
        return path

    def _downloaded(self, address: str) -> Path:
        parent, _, name = address.rpartition("/")
        if COMMITTED.fullmatch(name):
            is_own = self.folder is not None and parent == self.folder.address
            remote = RemoteFolder(parent, "resume_from_checkpoint")
            return remote.download(name, self.output_dir if is_own else self._place(parent))
        remote, target = RemoteFolder(address, "checkpoint"), self._place(address)
        if not remote.files():
            raise CheckpointError(f"{address} does not exist, or holds no files")
        remote.download_files(target)
        return target

    def fetch_model(self, is_complete: Callable[[Path], bool]) -> None:
        """Download what an evaluation needs: the final model of a complete run, or else the newest checkpoint."""
        if self.folder is None:
            return
        self.folder.download_files(self.output_dir)
        if not is_complete(self.output_dir):
            self.fetch_newest()

    def _place(self, address: str) -> Path:
        """Return the local folder in which the content of another address is kept."""
        return Path(StagingFolder.of(address, self.staging_dir))

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, checkpoint: Path, best: str | None) -> None:
        """Upload a committed checkpoint in the background."""
        if self.uploads is not None:
            self.uploads.add(checkpoint, best, run_id_of(checkpoint))

    def held(self) -> set[str]:
        """Return the checkpoint that is being uploaded."""
        return set() if self.uploads is None else self.uploads.held()

    def upload_files(self) -> None:
        """Upload the files outside of checkpoints that have changed."""
        if self.uploads is not None:
            self.uploads.upload_files()

    def wait(self, *, show: bool) -> None:
        """Wait until every checkpoint is uploaded."""
        if self.uploads is not None:
            self.uploads.wait(show=show)

    def finish(self, *, show: bool) -> None:
        """Wait until everything is uploaded."""
        if self.uploads is not None:
            self.uploads.finish(show=show)

    def remove(self, name: str) -> None:
        """Delete one file at the address."""
        if self.folder is not None:
            self.folder.remove(name)

    def write_to(self, address: str, write: Callable[[str], Any], *, uploads: bool) -> None:
        """Write files with ``write``, into a local folder, and upload them to another address if ``uploads``."""
        folder, remote = self._place(address), RemoteFolder(address)
        write(str(folder))
        for path in sorted(folder.rglob("*")) if uploads else ():
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not is_kept_apart(name):
                remote.put(path, name)
