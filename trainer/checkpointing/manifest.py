"""Manifest of a checkpoint: its files with sizes, digests and roles, and their verification.

The manifest is written last, after every file is on the disk, so a folder with a manifest was complete; sizes and
digests show whether it still is. The manifest also has a digest of itself, so that damage to it is detected too.

It names the role of each file (weights, optimizer, ...), and readers take only files of the role that they need.
Without roles (an older manifest, a folder written by `save_model` or by transformers), standard names define the roles.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from trackside.callbacks._util.atomic_files import describe, sync_folder
from trackside.callbacks.errors import CheckpointError

logger: logging.Logger = logging.getLogger("trackside.trainer")

MANIFEST = "manifest.json"
FORMAT = 1
STANDARD_ROLES = {
    "shards/*": "shards",
    "*.safetensors": "weights",
    "*.safetensors.index.json": "weights",
    "model_extra_state.pt": "weights",
    "model.weights.h5": "weights",
    "optimizer.*": "optimizer",
    "scheduler.*": "schedule",
    "scaler.*": "scaler",
    "rng_state_*": "rng",
    "trainer_state.json": "state",
    "training_args.json": "arguments",
    "progress.json": "progress",
}
"""Roles by standard name; the first pattern that matches applies."""


class BrokenCheckpointError(CheckpointError):
    """A checkpoint does not verify.

    Attributes:
        path: The checkpoint.
        reason: The defect, as the rest of a sentence that begins with the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"checkpoint {path} {reason}")


@dataclass(frozen=True)
class Contents:
    """The files of a folder and their roles.

    Attributes:
        path: The folder.
        roles: The role of each file, by its name relative to the folder.
    """

    path: Path
    roles: Mapping[str, str]

    def names(self, role: str) -> list[str]:
        """Return the names of the files of a role."""
        return [name for name, own in self.roles.items() if own == role]

    def find(self, name: str) -> Path | None:
        """Return the path of a file with a standard name; None if it does not exist, or has another role."""
        return self.path / name if self.roles.get(name) == role_of(name) else None


def open_checkpoint(path: Path) -> Contents:
    """Verify a folder, if it has a manifest, and return its contents.

    Raises:
        BrokenCheckpointError: If it does not exist, or does not verify.
    """
    if not path.is_dir() or (path / MANIFEST).exists():
        verify(path)
        return contents_of(path)
    contents = contents_of(path)
    if contents.names("state"):
        logger.warning("%s has no manifest, so it cannot be verified", path)
    return contents


def contents_of(path: Path) -> Contents:
    """Return the contents of a folder by its manifest, or else by its file names, without reading the other files.

    Raises:
        BrokenCheckpointError: If the manifest is damaged.
    """
    if (path / MANIFEST).exists():
        files = read_manifest(path)["files"]
        return Contents(path, {name: entry.get("role", role_of(name)) for name, entry in files.items()})
    there = (item for pattern in ("*", "shards/*") for item in path.glob(pattern) if item.is_file())
    return Contents(path, roles_of(item.relative_to(path).as_posix() for item in there))


def role_of(name: str) -> str:
    """Return the role of a file by its standard name.

    Example:
        >>> role_of("optimizer.pt"), role_of("shards/__0_0.distcp"), role_of("notes.txt")
        ('optimizer', 'shards', 'other')
    """
    return next((role for pattern, role in STANDARD_ROLES.items() if fnmatchcase(name, pattern)), "other")


def roles_of(names: Iterable[str]) -> dict[str, str]:
    """Return the role of each file by its standard name."""
    return {name: role_of(name) for name in names}


def seal(folder: Path, *, run_id: str, step: int, committed_at: int, roles: Mapping[str, str] | None = None) -> None:
    """Sync everything in ``folder`` to the disk and describe it in a manifest, which is written last.

    Args:
        folder: A folder to which nothing more is written.
        run_id: The run that wrote the folder; only this run may delete it.
        step: Updates completed.
        committed_at: Time of the commit.
        roles: Roles of files, by name relative to ``folder``; files that are not listed have the role "other".

    Units:
        committed_at: nanoseconds since 1970.

    Raises:
        CheckpointError: If the folder already holds a file with the manifest's name.
        OSError: If a file cannot be read or synced.
    """
    files, folders, roles = {}, [], roles or {}
    for parent, _, names in os.walk(folder, topdown=False, onerror=_raise):
        folders.append(parent)
        for name in sorted(names):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            files[relative] = {"role": roles.get(relative, "other"), **_measure(path, sync=True)}
    if MANIFEST in files:
        raise CheckpointError(f"{MANIFEST} is trackside's own file in a checkpoint; give yours another name")
    body = {"format": FORMAT, "run_id": run_id, "step": step, "committed_at": committed_at, "files": files}
    with open(folder / MANIFEST, "x", encoding="utf-8") as file:
        file.write(json.dumps({**body, "digest": _digest(body)}, indent=1, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for parent in folders:  # children before parents, the checkpoint folder itself last
        sync_folder(parent)


def verify(path: str | Path) -> dict[str, Any]:
    """Read every file of a checkpoint and return its manifest.

    Files that the manifest does not list are ignored.

    Raises:
        BrokenCheckpointError: If there is no manifest, or a file is missing or has another size or digest. The
            message names every such file.
    """
    path = Path(path)
    manifest = read_manifest(path)
    try:
        faults = list(_size_faults(path, manifest["files"])) or list(_digest_faults(path, manifest["files"]))
    except OSError as error:
        raise BrokenCheckpointError(path, f"cannot be read: {describe(error)}") from error
    if faults:
        raise BrokenCheckpointError(path, "; ".join(faults))
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, without reading the other files.

    Raises:
        BrokenCheckpointError: If it is missing or damaged, or has an unknown format.
    """
    if not path.is_dir():
        raise BrokenCheckpointError(path, "is not a folder" if path.exists() else "does not exist")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise BrokenCheckpointError(path, f"has no manifest ({MANIFEST})") from None
    except OSError as error:
        raise BrokenCheckpointError(path, f"cannot be read: {describe(error)}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenCheckpointError(path, f"has a damaged manifest: {describe(error)}") from error
    _check_manifest(path, manifest)
    return dict(manifest)


def _check_manifest(path: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or "digest" not in manifest:
        raise BrokenCheckpointError(path, f"has a {MANIFEST} that trackside did not write")
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        raise BrokenCheckpointError(path, f"has a manifest of format {found!r}; this version reads format {FORMAT}")
    if manifest["digest"] != _digest({key: value for key, value in manifest.items() if key != "digest"}):
        raise BrokenCheckpointError(path, "has a damaged manifest: it does not match its own digest")


def _size_faults(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    for name, expected in files.items():
        try:
            size = (folder / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            yield f"lacks {name}"
            continue
        if size != expected["size"]:
            yield f"has {size} bytes in {name}, its manifest says {expected['size']}"


def _digest_faults(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    for name, expected in files.items():
        if _measure(folder / name)["sha256"] != expected["sha256"]:
            yield f"has other content in {name} than was written (SHA-256 differs)"


def _measure(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file, read once, block by block; hashing releases the GIL."""
    with open(path, "rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256")
        if sync:
            os.fsync(file.fileno())
        return {"size": file.tell(), "sha256": digest.hexdigest()}


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("ascii")).hexdigest()


def _raise(error: OSError) -> None:
    raise error
