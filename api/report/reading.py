"""Reading of a run: its journal, its checkpoints, and whether it is still going on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import ConfigError
from trackside.report.checkpoint_entries import Entry, entries_in
from trackside.report.journal_tail import JournalTail
from trackside.report.run_files import (
    JOURNAL,
    NO_JOURNAL,
    check_folder,
    check_journal,
    folder_and_journal,
    local_files,
)
from trackside.report.run_record import Happening, Record, RunRecord, is_number, numbers_in
from trackside.trainer.checkpointing.discovery import find_checkpoints
from trackside.trainer.checkpointing.files.documents import DocumentError, read_document
from trackside.trainer.checkpointing.locks.run_lock import holder_of
from trackside.trainer.checkpointing.manifest import MANIFEST
from trackside.trainer.checkpointing.names import ARGS_FILE, STATE_FILE
from trackside.trainer.checkpointing.remote import RemoteFolder
from trackside.trainer.staging import is_address

FILES_OF_PAGE = (MANIFEST, STATE_FILE, ARGS_FILE)
"""Files of a checkpoint that a page is made of."""

NO_RUN = f"has neither {JOURNAL} nor a checkpoint, from which a page is made. {NO_JOURNAL}"


@dataclass
class ReadRun:
    """A run as its folder tells it.

    Attributes:
        name: Its name: that of the folder.
        folder: The output folder, or its address.
        record: What the journal tells, or else the newest checkpoint.
        args: The arguments of its last start, by name.
        checkpoints: The checkpoints in the folder.
        is_running: Whether a process works on it.
        notes: What is missing or damaged, in sentences.
    """

    name: str
    folder: str
    record: RunRecord
    args: dict[str, Any] = field(default_factory=dict)
    checkpoints: list[Entry] = field(default_factory=list)
    is_running: bool = False
    notes: list[str] = field(default_factory=list)


class RunReader:
    """Reads a run, and reads on while it lasts.

    Args:
        out: The output folder of a run, or its journal.

    Raises:
        ConfigError: If it is neither, or tells of no run; the message names the nearest folder.
    """

    def __init__(self, out: str | Path) -> None:
        folder, journal = folder_and_journal(out)
        self.folder = Path(folder)
        check_folder(self.folder)
        if journal != JOURNAL or str(out).endswith(journal):
            check_journal(self.folder / journal)
        self.name = self.folder.resolve().name or str(self.folder)
        self.tail = JournalTail(self.folder / journal)
        self.record = RunRecord()
        self._args: dict[str, Any] = {}
        self._checkpoints: list[Entry] = []
        self._seen: Any = None

    def read(self) -> ReadRun:
        """Return the run as it is now.

        Raises:
            ConfigError: If the folder tells of no run.
        """
        checkpoints = self._entries()
        notes = self._follow()
        if not self.record.starts or self.record.starts[0].step > 0:
            self._fill(checkpoints, notes)
        if not self.record.starts and not self.record.records and not checkpoints:
            if self.tail.path.is_file():
                raise ConfigError(f"{self.tail.path}: the journal has no whole event yet, and no checkpoint exists")
            raise ConfigError(f"{self.folder}: the folder {NO_RUN}")
        starts = self.record.starts
        is_running = not (starts and starts[-1].has_ended) and holder_of(self.folder) is not None
        args = self.record.args or self._args
        return ReadRun(self.name, str(self.folder), self.record, args, checkpoints, is_running, notes)

    def _entries(self) -> list[Entry]:
        """Return the checkpoints, which are read again when one was added or removed."""
        seen = [(path.name, _changed_at(path)) for path in find_checkpoints(self.folder)]
        if seen != self._seen:
            self._seen, self._checkpoints = seen, entries_in(str(self.folder), thorough=False)
        return self._checkpoints

    def _follow(self) -> list[str]:
        path, tail = self.tail.path, self.tail
        if not path.is_file():
            return [
                f"The folder has no {JOURNAL}, so this page has what the checkpoints tell: no times, no decisions and "
                "no costs. The callback 'journal' writes one."
            ]
        try:
            if tail.is_replaced():
                self.record = RunRecord()
            for entry in tail.new_entries():
                self.record.follow(entry)
            is_torn = tail.ends_torn()
        except OSError as error:
            raise ConfigError(f"{path}: the journal cannot be read: {error}") from error
        notes = []
        if is_torn and holder_of(self.folder) is None:
            notes.append("The last line of the journal is torn, as a process that is killed leaves it. It is left out.")
        if tail.torn:
            notes.append(f"Lines of the journal that were torn are left out: {tail.torn}.")
        if tail.foreign:
            notes.append(f"Lines of the journal that are not events are left out: {tail.foreign}.")
        if self.record.earlier > 0:
            notes.append(f"The journal holds {self.record.earlier} earlier run(s) too; this page is about the last.")
        return notes

    def _fill(self, checkpoints: list[Entry], notes: list[str]) -> None:
        """Add the records from before the journal, which a checkpoint holds."""
        record = self.record
        first = record.starts[0].step if record.starts else None
        known = {(item.step, tuple(item.values)) for item in record.records}
        for entry in reversed(checkpoints):
            folder = self.folder / entry.name if (self.folder / entry.name).is_dir() else self.folder
            try:
                state = read_document(folder, STATE_FILE)
            except (DocumentError, OSError) as error:
                notes.append(f"{entry.name}: its state cannot be read: {error}")
                continue
            history = [item for item in state.get("log_history") or [] if isinstance(item, dict)]
            found = [_record(item) for item in history if first is None or int(item.get("step") or 0) <= first]
            new = [item for item in found if (item.step, tuple(item.values)) not in known]
            record.records[:0] = new
            record.evaluations[:0] = [
                Happening(None, item.step, item.values, None) for item in new if is_evaluation(item.values)
            ]
            if not record.starts:
                record.state.update({name: value for name, value in state.items() if name != "log_history"})
                record.run_id = entry.run_id
                self._args = _args(folder)
            return


def _changed_at(path: Path) -> int:
    """Return the time of the last change; 0 if the run has just deleted it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _record(item: dict[str, Any]) -> Record:
    epoch = item.get("epoch")
    return Record(int(item.get("step") or 0), epoch if is_number(epoch) else None, None, 0, numbers_in(item))


def _args(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / ARGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_evaluation(values: dict[str, Any]) -> bool:
    """Return whether a record is that of an evaluation.

    Example:
        >>> is_evaluation({"eval_loss": 0.5, "epoch": 1.0}), is_evaluation({"loss": 0.5})
        (True, False)
    """
    return any(key.startswith("eval_") for key in values)


def files_of_page(remote: RemoteFolder, journal: str) -> Iterator[str]:
    """Yield the names of the files at an address that a page is made of."""
    yield journal
    yield from (f"{name}/{file}" for name in remote.names() for file in FILES_OF_PAGE)


def read_run(out: str | Path) -> ReadRun:
    """Return what the output folder of a run, its address, or its journal tells.

    Raises:
        ConfigError: If it is none of these, tells of no run, or the address cannot be read.
    """
    address, journal = folder_and_journal(out)
    if not is_address(out):
        return RunReader(out).read()
    with local_files(address, lambda remote: files_of_page(remote, journal)) as copy:
        if not any(copy.iterdir()):
            raise ConfigError(f"{address}: the address {NO_RUN}")
        run = RunReader(copy / journal if (copy / journal).exists() else copy).read()
    run.checkpoints = entries_in(address, thorough=False)
    run.folder = address
    run.notes.append("The page has what the run had uploaded so far: it uploads its journal with each checkpoint.")
    return run
