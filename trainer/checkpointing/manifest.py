"""Manifest of a checkpoint: its files with sizes, digests and roles, and their verification.

The manifest is written last, after every file is on the disk, so a folder with a manifest was complete; sizes and
digests show whether it still is. The manifest also has a digest of itself, so that damage to it is detected too.

It names the role of each file (weights, optimizer, ...), and readers take only files of the role that they need.
Without roles (an older manifest, a folder written by `save_model` or by transformers), standard names define the roles.
A name is relative and stands for a regular file inside of the folder: links, pipes and devices are not opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from trackside.callbacks._util.atomic_files import sync_folder
from trackside.callbacks.errors import CheckpointError, describe

from .files.documents import DocumentError, check, has_schema, parse, read_document
from .files.regular_files import IrregularFileError, is_inside, open_regular, read_regular, status_of
from .names import ARGS_FILE, PROGRESS_FILE, STATE_FILE, step_of
from .saving.hashed_file import remembered

logger: logging.Logger = logging.getLogger("trackside.trainer")

MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 28
"""Size of the largest manifest that is read."""
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
    STATE_FILE: "state",
    ARGS_FILE: "arguments",
    PROGRESS_FILE: "progress",
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
        is_sealed: Whether the folder has a manifest.
    """

    path: Path
    roles: Mapping[str, str]
    is_sealed: bool = False

    def names(self, role: str) -> list[str]:
        """Return the names of the files of a role."""
        return [name for name, own in self.roles.items() if own == role]

    def find(self, name: str) -> Path | None:
        """Return the path of a file with a standard name; None if it does not exist, or has another role."""
        return self.path / name if self.roles.get(name) == role_of(name) else None

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file with a standard name, after checking it; None if `find` finds none.

        Raises:
            BrokenCheckpointError: If it is not JSON, or has a value that is not allowed.
        """
        if self.find(name) is None:
            return None
        with _broken(self.path):
            return read_document(self.path, name, links=not self.is_sealed)

    def require(self, *roles: str) -> None:
        """Raise BrokenCheckpointError if a role has no file; the message names it."""
        for role in roles:
            if not self.names(role):
                names = " or ".join(pattern for pattern, own in STANDARD_ROLES.items() if own == role)
                raise BrokenCheckpointError(self.path, f"has no file with the role {role!r} ({names})")


def open_checkpoint(path: Path) -> Contents:
    """Verify a folder and return its contents; without a manifest, only its JSON files are checked.

    Raises:
        BrokenCheckpointError: If it does not exist, or does not verify.
    """
    if not path.is_dir() or os.path.lexists(path / MANIFEST):
        verify(path)
        return contents_of(path)
    contents = contents_of(path)
    if contents.names("progress"):  # only trackside writes it, and always with a manifest
        raise BrokenCheckpointError(path, f"has lost its {MANIFEST}, so it cannot be verified")
    if contents.names("state") and (step_of(path) >= 0 or contents.names("optimizer")):  # and not a final model
        logger.warning("%s has no manifest, so it cannot be verified", path)
    _check_documents(contents, step=None)
    return contents


def contents_of(path: Path) -> Contents:
    """Return the contents of a folder by its manifest, or else by its file names, without reading the other files.

    Raises:
        BrokenCheckpointError: If the manifest is damaged.
    """
    if os.path.lexists(path / MANIFEST):
        return _contents(path, read_manifest(path))
    there = (item for pattern in ("*", "shards/*") for item in path.glob(pattern) if item.is_file())
    return Contents(path, roles_of(item.relative_to(path).as_posix() for item in there))


def _contents(path: Path, manifest: Mapping[str, Any]) -> Contents:
    roles = {name: entry.get("role", role_of(name)) for name, entry in manifest["files"].items()}
    return Contents(path, roles, is_sealed=True)


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
            relative = Path(parent, name).relative_to(folder).as_posix()
            role = roles.get(relative, "other")
            if role != "other" or stat.S_ISREG(os.lstat(Path(parent, name)).st_mode):
                files[relative] = {"role": role, **_measure(folder, relative, sync=True)}
    if MANIFEST in files:
        raise CheckpointError(f"{MANIFEST} is trackside's own file in a checkpoint; give yours another name")
    body = {"format": FORMAT, "run_id": run_id, "step": step, "committed_at": committed_at, "files": files}
    _check_documents(_contents(folder, body), step=step)
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
    with _broken(path):
        faults = list(_size_faults(path, manifest["files"])) or list(_digest_faults(path, manifest["files"]))
    if faults:
        raise BrokenCheckpointError(path, "; ".join(faults))
    _check_documents(_contents(path, manifest), step=manifest["step"])
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, without reading the other files.

    Raises:
        BrokenCheckpointError: If it is missing or damaged, or has an unknown format.
    """
    if not path.is_dir():
        raise BrokenCheckpointError(path, "is not a folder" if path.exists() else "does not exist")
    with _broken(path):
        try:
            content = read_regular(path, MANIFEST, limit=MANIFEST_BYTES)
        except FileNotFoundError:
            raise BrokenCheckpointError(path, f"has no manifest ({MANIFEST})") from None
        manifest = parse(content, "manifest")
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
    check(manifest, MANIFEST)
    outside = next((name for name in manifest["files"] if not is_inside(name)), None)
    if outside is not None:
        raise DocumentError(f"has {outside!r} in its manifest, which is not a relative path inside of the folder")
    if step_of(path) not in (-1, manifest["step"]):
        raise DocumentError(f"has another name than its manifest, which is of step {manifest['step']}")


def _check_documents(contents: Contents, *, step: int | None) -> None:
    """Raise BrokenCheckpointError if a JSON file with a schema does not follow it, or is of another step."""
    for name in filter(has_schema, contents.roles):
        values = contents.read(name)
        if values is None:  # another's file of that name
            continue
        if contents.roles[name] == "state" and step is not None and values["global_step"] != step:
            raise BrokenCheckpointError(
                contents.path, f"has global_step {values['global_step']} in {name}; its manifest says {step}"
            )


def _size_faults(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    for name, expected in files.items():
        try:
            size = status_of(folder, name).st_size
        except (FileNotFoundError, NotADirectoryError):
            yield f"lacks {name}"
        except IrregularFileError as error:
            yield str(error)
        else:
            if size != expected["size"]:
                yield f"has {size} bytes in {name}, its manifest says {expected['size']}"


def _digest_faults(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    for name, expected in files.items():
        if _measure(folder, name)["sha256"] != expected["sha256"]:
            yield f"has other content in {name} than was written (SHA-256 differs)"


def _measure(folder: Path, name: str, *, sync: bool = False) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file; with ``sync``, sync it, and read it only if it was not hashed before.

    Hashing is done block by block, without the GIL.
    """
    with open_regular(folder, name) as file:
        status = os.fstat(file.fileno())
        digest = remembered(status) if sync else None
        if digest is None:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return {"size": status.st_size, "sha256": digest}


@contextlib.contextmanager
def _broken(path: Path) -> Iterator[None]:
    """Turn what is wrong with a file of a checkpoint into a BrokenCheckpointError."""
    try:
        yield
    except (DocumentError, IrregularFileError) as error:
        raise BrokenCheckpointError(path, str(error)) from error
    except CheckpointError:
        raise
    except OSError as error:
        raise BrokenCheckpointError(path, f"cannot be read: {describe(error)}") from error


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode("ascii")).hexdigest()


def _raise(error: OSError) -> None:
    raise error
