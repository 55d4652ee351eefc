"""Checkpoint store with atomic commits.

The protocol, in order: the files are written to a temporary folder beside the final folder; each file is fsynced; the
manifest is written and fsynced last; the folder is renamed to its final name atomically; the parent folder is fsynced.
Only then are older checkpoints deleted. A crash between any two of these steps leaves every earlier checkpoint intact,
and `newest_valid` finds it. The trainer writes the contents of the folder; this module is independent of the framework.

An output folder may contain:

    checkpoint-500                          committed
    checkpoint-500.replaced-<pid>-<hex>     the previous checkpoint of that step: another run's, or left by a crash
    .checkpoint-500.tmp-<pid>-<hex>         being written or deleted
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trackside.callbacks._util.atomic_files import claimed, exchange, is_in_use, make_folder, sync_folder
from trackside.callbacks.errors import ArgumentError, CheckpointError, describe

from .discovery import commit_time_of, find_checkpoints, run_id_of, subfolders
from .files.schemas import LARGEST
from .manifest import seal
from .names import (
    CHECKPOINT_PREFIX,
    REPLACED,
    TEMPORARY,
    is_checkpoint,
    replaced_name,
    step_of,
    tag_of,
    temporary_name,
)
from .saving.hashed_file import remembering

Write = Callable[[Path], Mapping[str, str] | None]
"""Fills a folder and returns the roles of the files that it wrote; files that are not listed have the role "other"."""

logger: logging.Logger = logging.getLogger("trackside.trainer")


class CheckpointStore:
    """The checkpoints of one run in one output folder. Not thread-safe; a `Committer` serializes its calls.

    Args:
        output_dir: Folder of the checkpoints; created at the first commit.
        run_id: Id of the run. Only folders whose manifest has this id are deleted; a resumed run keeps its id.
        save_total_limit: Number of checkpoints of this run that remain after a commit; None keeps all. The best and the
            newest always remain, so a limit of 1 may leave two.

    Raises:
        ArgumentError: If the limit is below 1.
    """

    def __init__(self, output_dir: str | Path, *, run_id: str, save_total_limit: int | None = None) -> None:
        if save_total_limit is not None and save_total_limit < 1:
            raise ArgumentError("save_total_limit", save_total_limit, "at least 1, or None to keep all")
        self.output_dir: Path = Path(output_dir)
        self.run_id = run_id
        self.save_total_limit = save_total_limit

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of ``step``, which may not exist."""
        return self.output_dir / f"{CHECKPOINT_PREFIX}{step}"

    def commit(self, step: int, write: Write, *, best: Path | str | None = None, held: Collection[str] = ()) -> Path:
        """Commit a new folder, filled by ``write``, as the checkpoint of ``step``; then delete surplus checkpoints.

        A checkpoint that this run committed for the same step is replaced; a checkpoint of another run is renamed. A
        deletion that fails logs a warning; the new checkpoint remains.

        Args:
            step: Updates completed.
            write: Writes all files of the checkpoint into the empty folder that it gets; returns the roles of the
                files.
            best: The checkpoint of the best model, which is never deleted; matched by name, so that the output folder
                may be moved.
            held: Checkpoints that are in use, and are not deleted yet.

        Returns:
            The committed folder.

        Raises:
            CheckpointError: If a step failed; the message has path and cause, and ``errno`` is that of the cause.
                All earlier checkpoints are unchanged, and the new one is removed. (If the new folder was renamed, but
                can be neither synced nor renamed back, it remains, complete, under its final name.)
        """
        final, temporary = self.path(step), self._temporary(step)
        try:
            make_folder(self.output_dir)
            with claimed(temporary), remembering():
                roles = write(temporary)
                seal(temporary, run_id=self.run_id, step=step, committed_at=self._commit_time(), roles=roles)
                old = self._put_in_place(temporary, final)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            failure = CheckpointError(f"checkpoint {final} could not be written: {describe(error)}")
            failure.errno = getattr(error, "errno", None)
            raise failure from error
        self._discard([old] if old is not None else [])
        self.rotate(final, *([] if best is None else [best]), *held)
        return final

    @contextlib.contextmanager
    def rehearsal_folder(self) -> Iterator[Path]:
        """Return a context with a folder like those that `commit` fills, which is deleted at the end.

        Raises:
            OSError: If a folder cannot be made in ``output_dir``.
        """
        temporary = self._temporary(0)
        try:
            make_folder(self.output_dir)
            with claimed(temporary):
                yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def rotate(self, *keep: Path | str) -> None:
        """Delete the oldest checkpoints of this run beyond ``save_total_limit``, except those in ``keep``."""
        if self.save_total_limit is None:
            return
        try:
            ours = [path for path in find_checkpoints(self.output_dir) if self._is_ours(path)]
        except OSError as error:
            logger.warning("%s could not be listed, nothing is deleted: %s", self.output_dir, describe(error))
            return
        names = {Path(path).name for path in keep} | {path.name for path in ours[-1:]}
        self._discard(surplus(ours, self.save_total_limit, names))

    def remove_runs(self, run_ids: Collection[str]) -> None:
        """Delete the checkpoints of other runs, and what these left half written; a linked folder stays."""
        tags = {tag_of(run_id) for run_id in run_ids}
        doomed = [folder for folder, run in self._left_over(TEMPORARY) if run in tags]
        committed = (path for path in subfolders(self.output_dir) if is_checkpoint(path.name) and not path.is_symlink())
        self._discard([*doomed, *(path for path in committed if run_id_of(path) in run_ids)])

    def clean(self) -> list[Path]:
        """Remove the leftovers of ended processes of this run; return the removed folders.

        Leftovers are partly written or partly deleted folders, and the previous checkpoint of a step that was being
        replaced, unless it is the only one of its step; then it is renamed back. Folders in use by a process remain.
        """
        doomed = [folder for folder, run in self._left_over(TEMPORARY) if run == tag_of(self.run_id)]
        for folder, _ in self._left_over(REPLACED):
            final = self.path(step_of(folder))
            if os.path.lexists(final):
                doomed += [folder] if self._is_ours(folder) else []
            else:
                with contextlib.suppress(OSError):  # find_checkpoints also lists the renamed folder
                    os.rename(folder, final)
        self._discard(doomed)
        return [folder for folder in doomed if not folder.exists()]

    # -- putting in place -----------------------------------------------------------------------------------------

    def _put_in_place(self, new: Path, final: Path) -> Path | None:
        """Give ``new`` its final name, or change nothing; return the folder it supersedes, if this run wrote one."""
        old, is_ours = None, self._is_ours(final)
        with contextlib.ExitStack() as undo:
            if not os.path.lexists(final):
                _rename(new, final, undo)
            elif is_ours and exchange(new, final):
                undo.callback(exchange, new, final)
                old = new
            else:  # find_checkpoints also lists the intermediate name
                old = final.with_name(replaced_name(final.name))
                _rename(final, old, undo)
                _rename(new, final, undo)
            sync_folder(self.output_dir)
            undo.pop_all()
        return old if is_ours else None

    def _commit_time(self) -> int:
        """Return the current time, or a later one if a checkpoint is not older: the clock may have been set back."""
        others = [commit_time_of(path) + 1 for path in find_checkpoints(self.output_dir)]
        return min(max([time.time_ns(), *others]), LARGEST)

    # -- deleting -------------------------------------------------------------------------------------------------

    def _discard(self, folders: Iterable[Path]) -> None:
        """Delete folders under a temporary name, so that a kill leaves no partial checkpoint under a final name."""
        for folder in folders:
            doomed = folder
            try:
                if not TEMPORARY.fullmatch(folder.name):
                    doomed = self._temporary(step_of(folder))
                    os.rename(folder, doomed)
                shutil.rmtree(doomed)
            except OSError as error:
                logger.warning("%s could not be deleted: %s", folder, describe(error))

    def _is_ours(self, folder: Path) -> bool:
        return not folder.is_symlink() and run_id_of(folder) == self.run_id

    # -- names ----------------------------------------------------------------------------------------------------

    def _temporary(self, step: int) -> Path:
        return self.output_dir / temporary_name(step, self.run_id)

    def _left_over(self, pattern: re.Pattern[str]) -> list[tuple[Path, str | None]]:
        """Return the folders that match ``pattern`` and are not in use by a process, each with the tag of its run."""
        matches = [(path, pattern.fullmatch(path.name)) for path in sorted(subfolders(self.output_dir))]
        return [
            (path, match.groupdict().get("run"))
            for path, match in matches
            if match and not is_in_use(path, int(match["pid"]))
        ]


def surplus(oldest_first: Sequence[Path], limit: int, keep: Collection[str]) -> list[Path]:
    """Return the oldest folders to delete so that ``limit`` remain, except those whose names are in ``keep``.

    Example:
        >>> folders = [Path("checkpoint-1"), Path("checkpoint-2"), Path("checkpoint-3")]
        >>> [path.name for path in surplus(folders, limit=2, keep={"checkpoint-1", "checkpoint-3"})]
        ['checkpoint-2']
    """
    deletable = [path for path in oldest_first if path.name not in keep]
    return deletable[: max(len(oldest_first) - limit, 0)]


def _rename(source: Path, target: Path, undo: contextlib.ExitStack) -> None:
    os.rename(source, target)
    undo.callback(os.rename, target, source)
