"""Uploads: a thread that copies committed checkpoints, and the other files of a run, to a remote folder.

One checkpoint is uploaded at a time, in the order of the commits. While it is, it is held against rotation. A
checkpoint that rotation deletes before its turn is left out: the remote rotation would delete it too. An upload that
fails is tried again after each of `PAUSES_S`, then once more at the end of the run; the local checkpoint stays.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trackside.callbacks.errors import describe

from .manifest import BrokenCheckpointError, read_manifest
from .remote import RemoteFolder, is_kept_apart

logger: logging.Logger = logging.getLogger("trackside.trainer")

PAUSES_S: tuple[float, ...] = (1.0, 4.0, 16.0)
"""Pauses before the second attempt to upload, and the next ones."""


@dataclass(frozen=True)
class Upload:
    """One checkpoint to upload, the one that rotation keeps as the best, and the run of both."""

    checkpoint: Path
    best: str | None
    run_id: str | None


class Uploads:
    """The uploads of one run, by its first process.

    Args:
        remote: Where to.
        folder: The local folder of the run.
        limit: The number of checkpoints of a run that remain; None keeps all.

    Attributes:
        replaces_others: Whether the first upload is followed by the deletion of the checkpoints of other runs.
    """

    def __init__(self, remote: RemoteFolder, folder: Path, limit: int | None) -> None:
        self.remote = remote
        self.folder = folder
        self.limit = limit
        self.replaces_others: bool = False
        self.bytes_done: int = 0
        self.failed: list[Upload] = []
        self._known: dict[str, tuple[int, int]] = {}
        self._changed = threading.Condition()
        self._waiting: deque[Upload] = deque()
        self._active: Upload | None = None
        self._thread: threading.Thread | None = None

    def add(self, checkpoint: Path, best: str | None, run_id: str | None) -> None:
        """Upload a committed checkpoint in the background, then rotate, and upload the other files that changed."""
        with self._changed:
            self._waiting.append(Upload(checkpoint, best, run_id))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="trackside-upload", daemon=True)
                self._thread.start()

    def held(self) -> set[str]:
        """Return the checkpoint that is being uploaded, or is about to be."""
        with self._changed:
            active = self._active or next(iter(self._waiting), None)
        return set() if active is None else {str(active.checkpoint)}

    def finish(self, *, show: bool) -> None:
        """Wait for all uploads, with a progress bar if ``show``; try those that failed again; upload other files."""
        again, self.failed = self.failed, []
        for upload in again:
            self.add(upload.checkpoint, upload.best, upload.run_id)
        self.wait(show=show)
        self.upload_files()
        if self.failed:
            names = ", ".join(upload.checkpoint.name for upload in self.failed)
            logger.error("not uploaded to %s, and kept in %s: %s", self.remote.address, self.folder, names)

    def upload_files(self) -> None:
        """Upload the files outside of checkpoints that are new or have changed; a failure is a warning."""
        try:
            for path in sorted(self.folder.rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and not path.is_symlink() and not is_kept_apart(name):
                    self._upload_file(path, name)
        except Exception as error:
            told = (self.folder, self.remote.address, describe(error))
            logger.warning("%s: files could not be uploaded to %s: %s", *told)

    def _upload_file(self, path: Path, name: str) -> None:
        found = path.stat()
        version = found.st_mtime_ns, found.st_size
        if self._known.get(name) != version:
            self._persist(lambda: self.remote.put(path, name))
            self._known[name] = version

    def wait(self, *, show: bool) -> None:
        """Wait for all uploads, with a progress bar if ``show``."""
        with self._changed:
            if self._changed.wait_for(self._is_idle, timeout=0.5):
                return
            sizes = [_size(item.checkpoint) for item in (self._active, *self._waiting) if item is not None]
        title, start = f"uploading to {self.remote.address}", self.bytes_done
        if not show:
            logger.warning("%s: the run waits for %d checkpoints", title, len(sizes))
        with tqdm(total=sum(sizes), unit="B", unit_scale=True, desc=title, disable=not show) as bar, self._changed:
            while not self._changed.wait_for(self._is_idle, timeout=0.5):
                bar.update(min(self.bytes_done - start, sum(sizes)) - bar.n)

    def _is_idle(self) -> bool:
        return self._thread is None

    def _work(self) -> None:
        while (upload := self._next()) is not None:
            try:
                self._upload(upload)
            except Exception as error:
                self._give_up(upload, error)

    def _give_up(self, upload: Upload, error: Exception) -> None:
        """Report a failure; if rotation has deleted the checkpoint meanwhile, delete what was uploaded of it."""
        if upload.checkpoint.exists():
            self.failed.append(upload)
            what = f"{upload.checkpoint} could not be uploaded to {self.remote.address}; it stays here"
            logger.error("%s: %s", what, describe(error))
            return
        with contextlib.suppress(Exception):  # without a manifest it does not exist anyway
            self.remote.delete(upload.checkpoint.name)

    def _next(self) -> Upload | None:
        with self._changed:
            self._active = self._waiting.popleft() if self._waiting else None
            if self._active is None:
                self._thread = None
            self._changed.notify_all()
            return self._active

    def _upload(self, upload: Upload) -> None:
        self._persist(lambda: self.remote.upload(upload.checkpoint, self._count), upload.checkpoint)
        try:
            keep = [Path(upload.best).name] if upload.best is not None else []
            self.remote.rotate(str(upload.run_id), self.limit, keep)
            if self.replaces_others:
                self.remote.delete_others(str(upload.run_id))
                self.replaces_others = False
        except Exception as error:
            logger.warning("%s: old checkpoints could not be deleted: %s", self.remote.address, describe(error))
        self.upload_files()

    def _count(self, size: int) -> None:
        self.bytes_done += size

    def _persist(self, work: Callable[[], Any], needs: Path | None = None) -> None:
        """Do ``work``, again after each pause if it fails, as long as the local folder ``needs`` exists."""
        for pause_s in PAUSES_S:
            try:
                work()
                return
            except Exception as error:
                if needs is not None and not needs.exists():
                    raise
                logger.info("%s: trying again in %g s: %s", self.remote.address, pause_s, describe(error))
                time.sleep(pause_s)
        work()


def _size(checkpoint: Path) -> int:
    try:
        return sum(entry["size"] for entry in read_manifest(checkpoint)["files"].values())
    except BrokenCheckpointError:  # deleted by rotation
        return 0
