"""One start of a job: a process group of its own, watched through its output folder, and killed at an instant."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trackside.cli.chaos.instants import SAVE, START, UPDATE, Instant
from trackside.cli.chaos.processes import MARK, kill_job, noted_stops
from trackside.trainer.checkpointing.locks.run_lock import LOCK_FILE
from trackside.trainer.checkpointing.names import COMMITTED, TEMPORARY

POLL_S = 0.002


@dataclass
class Ended:
    """How a start of a job ended.

    Attributes:
        code: Its exit code; None if it was killed at the instant, and ``is_hung`` if it was killed after the limit.
        train_s: Seconds from the moment that it took its folder.
        update_s: Seconds that an update took on average; 0 without two that were traced.
        saves: Seconds that each save, or deletion of a checkpoint, took.
        is_in_save: Whether the kill left a checkpoint half written or half deleted.
    """

    code: int | None = None
    is_hung: bool = False
    train_s: float = 0.0
    update_s: float = 0.0
    saves: list[float] = field(default_factory=list)
    is_in_save: bool = False


class Watch:
    """What is seen in an output folder from outside, and a copy of each checkpoint, made of links.

    Args:
        out: The output folder, which may not exist yet.
        kept: The folder of the copies; they stay when the job deletes its checkpoints.
        trace: The file of the trace; None if the job is not traced.

    Attributes:
        seen: The times of what an instant may follow, in this start of the job.
        saves: How long each save, or deletion of a checkpoint, has been seen, in seconds.
    """

    def __init__(self, out: Path, kept: Path, trace: Path | None) -> None:
        self.out: Path = out
        self.kept: Path = kept
        self.trace: Path | None = trace
        self.seen: dict[str, list[float]] = {START: [], UPDATE: [], SAVE: []}
        self.saves: dict[str, float] = {}
        self._lock_before = _stat(out / LOCK_FILE)[0]
        self._read = _stat(trace)[1]
        self._saves_at: dict[str, float] = {}
        self._copied: dict[str, int] = {}
        kept.mkdir(parents=True, exist_ok=True)

    def look(self) -> None:
        """Note what is new."""
        now = time.monotonic()
        if not self.seen[START] and _stat(self.out / LOCK_FILE)[0] != self._lock_before:
            self.seen[START].append(now)
        if self.trace is not None and _stat(self.trace)[1] > self._read:
            with open(self.trace, "rb") as file:
                file.seek(self._read)
                new = file.read()
            self._read += len(new)
            self.seen[UPDATE] += [now] * new.count(b"\n")
        with contextlib.suppress(OSError):  # the folder, or one in it, does not exist just now
            for entry in os.scandir(self.out):
                if is_save(entry.name):
                    if entry.name not in self.saves:
                        self.seen[SAVE].append(now)
                        self._saves_at[entry.name] = now
                    self.saves[entry.name] = now - self._saves_at[entry.name]
                elif COMMITTED.fullmatch(entry.name) and self._copied.get(entry.name) != entry.inode():
                    self._keep(entry)

    def _keep(self, entry: os.DirEntry[str]) -> None:
        copy, new = self.kept / entry.name, self.kept / f"{entry.name}.new"
        shutil.rmtree(new, ignore_errors=True)
        with contextlib.suppress(OSError, shutil.Error):  # it is being deleted
            shutil.copytree(entry.path, new, copy_function=_link)
            if os.stat(entry.path).st_ino == entry.inode():  # rotation renames before it deletes: the copy is whole
                shutil.rmtree(copy, ignore_errors=True)
                new.rename(copy)
                self._copied[entry.name] = entry.inode()
        shutil.rmtree(new, ignore_errors=True)


def _stat(path: Path | None) -> tuple[int, int]:
    """Return the time of the last change and the size of a file; zeros if it does not exist."""
    try:
        found = os.stat(path or "")
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def is_save(name: str) -> bool:
    """Return whether a folder is a checkpoint that is being written or deleted, and not the trial before step 1."""
    return bool(TEMPORARY.fullmatch(name)) and not name.startswith(".checkpoint-0.")


def run_until(
    command: Sequence[str],
    environment: Mapping[str, str],
    watch: Watch,
    log: Path,
    instant: Instant | None = None,
    limit_s: float | None = None,
) -> Ended:
    """Start a job; kill it at an instant, or wait for its end. A signal that ends chaos kills it first.

    Args:
        log: File to which its output is appended.
        instant: When to kill it; None: never.
        limit_s: Seconds after which it is taken to hang, and killed.

    Raises:
        KeyboardInterrupt, SystemExit: If this process got a signal that ends it.
    """
    started, mark = time.monotonic(), uuid.uuid4().hex
    ended = Ended()
    with open(log, "ab") as output, noted_stops() as stops:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while not stops:
                ended.code = process.poll()
                watch.look()
                if ended.code is not None:
                    break
                now = time.monotonic()
                ended.is_hung = limit_s is not None and now - started > limit_s
                if ended.is_hung or (instant is not None and instant.is_due(now, watch.seen)):
                    break
                time.sleep(POLL_S)
        finally:  # after its end, too: processes that it has left behind
            kill_job(process, mark)
    watch.look()
    ended.train_s = time.monotonic() - (watch.seen[START] or [started])[0]
    updates = watch.seen[UPDATE]
    ended.update_s = (updates[-1] - updates[0]) / (len(updates) - 1) if len(updates) > 1 else 0.0
    ended.saves = list(watch.saves.values())
    ended.is_in_save = any(is_save(path.name) for path in watch.out.glob(".*")) if watch.out.is_dir() else False
    return ended


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
