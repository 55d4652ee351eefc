"""Files of a run, in its output folder or at its address: one way for all commands that read them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from trackside.callbacks.builtin.journal import is_event
from trackside.callbacks.errors import ConfigError, TracksideError, describe, did_you_mean
from trackside.trainer.checkpointing.remote import RemoteFolder
from trackside.trainer.staging import is_address

JOURNAL = "journal.jsonl"

NO_JOURNAL = "The callback 'journal' writes one: callbacks: {journal: }"

FIRST_LINES = 20
"""Lines in which a journal has an event; the first ones may be torn."""


def folder_and_journal(out: str | Path) -> tuple[str, str]:
    """Return the folder of a run, or its address, and the name of its journal; ``out`` may be either.

    Example:
        >>> folder_and_journal("s3://bucket/run/"), folder_and_journal("s3://bucket/run/other.jsonl")
        (('s3://bucket/run', 'journal.jsonl'), ('s3://bucket/run', 'other.jsonl'))
    """
    if is_address(out):
        folder, _, last = str(out).rstrip("/").rpartition("/")
        return (folder, last) if last.endswith(".jsonl") else (f"{folder}/{last}", JOURNAL)
    path = Path(out).expanduser()
    is_journal = path.is_file() or (path.suffix == ".jsonl" and not path.is_dir())
    return (str(path.parent), path.name) if is_journal else (str(path), JOURNAL)


def check_journal(path: Path) -> None:
    """Check that a file is there, and is a journal.

    Raises:
        ConfigError: If it is not; the message names the nearest file.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: this is not a regular file")
    if not path.is_file():
        there = [str(item) for item in path.parent.glob("*.jsonl")]
        near = did_you_mean(str(path), there) or (f" {NO_JOURNAL}" if path.name == JOURNAL else "")
        raise ConfigError(f"{path}: the file does not exist.{near}")
    with path.open("rb") as lines:
        is_journal = path.suffix == ".jsonl" or any(map(_is_event, islice(lines, FIRST_LINES)))
    if not is_journal:
        raise ConfigError(f"{path}: this is not a journal. {NO_JOURNAL}")


def _is_event(line: bytes) -> bool:
    try:
        return is_event(json.loads(line))
    except (ValueError, RecursionError):
        return False


@contextmanager
def local_files(out: str | Path, wanted: Callable[[RemoteFolder], Iterable[str]]) -> Iterator[Path]:
    """Return a context with a local folder that holds files of a run: its own, or a copy of some at its address.

    Args:
        out: The folder or the address. Within the context, an error that names the copy names the address.
        wanted: Returns the names of those files at the address that are needed; they may be missing.

    Raises:
        ConfigError: If the folder does not exist, or the address cannot be read.
    """
    if not is_address(out):
        folder = Path(out).expanduser()
        check_folder(folder)
        yield folder
        return
    address = str(out).rstrip("/")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, address.rpartition("/")[2] or "run")
        copy.mkdir()
        with reached(address) as remote:
            for name in wanted(remote):
                if content := remote.read(name):
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    (copy / name).write_bytes(content)
        try:
            yield copy
        except TracksideError as error:
            raise ConfigError(str(error).replace(str(copy), address)) from error


@contextmanager
def reached(address: str) -> Iterator[RemoteFolder]:
    """Return a context with what is at an address, where an error of its file system is told with the address.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        yield RemoteFolder(address, "OUT")
    except TracksideError:
        raise
    except Exception as error:  # of the network, of credentials: each file system has its own
        raise ConfigError(f"{address}: the address cannot be read: {describe(error)}") from error


def check_folder(folder: Path) -> None:
    """Raise ConfigError if a folder does not exist; the message names the nearest."""
    if folder.is_dir():
        return
    if folder.exists():
        raise ConfigError(f"{folder}: this is a file; a folder is needed")
    there = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    raise ConfigError(f"{folder}: the folder does not exist.{did_you_mean(folder.name, there)}")
