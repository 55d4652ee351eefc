"""Remote folder: checkpoints at an fsspec address, such as s3://bucket/run.

A store of objects cannot rename a folder, so the manifest is the marker: it is written after every other file, and
deleted before any of them. A checkpoint without a manifest that matches its own digest does not exist, whatever a
killed process left of it. To replace a checkpoint, the old one is copied under another name first, which counts while
the new one is not complete.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from trackside.callbacks._util.atomic_files import claimed, make_folder, sync_folder
from trackside.callbacks.errors import ArgumentError, CheckpointError, describe

from ..staging import is_address
from .discovery import newest_valid
from .filesystem import opened
from .manifest import MANIFEST, BrokenCheckpointError, read_manifest, verify
from .names import CHECKPOINT_PREFIX, REPLACED, is_checkpoint, replaced_name, step_of, temporary_name
from .store import surplus

logger: logging.Logger = logging.getLogger("trackside.trainer")

Manifest = dict[str, Any]


class RemoteFolder:
    """The checkpoints and other files below one address.

    Args:
        address: The address of the folder.
        field: The argument that it was given for.

    Raises:
        MissingPackageError: If fsspec, or the package for this kind of address, is not installed.
        ArgumentError: If fsspec does not know this kind of address.
    """

    def __init__(self, address: str, field: str = "output_dir") -> None:
        self.address: str = address.rstrip("/")
        self.field: str = field
        self.fs: Any
        self.root: str
        self.fs, self.root = opened(self.address, field)

    def probe(self) -> None:
        """Write and delete a small file.

        Raises:
            ArgumentError: If that fails.
        """
        name = f"{self.root}/.trackside-probe-{secrets.token_hex(4)}"
        try:
            with tempfile.NamedTemporaryFile() as file:
                file.write(b"probe")
                file.flush()
                self.fs.put_file(file.name, name)
            self.fs.rm_file(name)
        except Exception as error:
            allowed = f"an address that this process can write to: {describe(error)}"
            raise ArgumentError(self.field, self.address, allowed) from error

    # -- what is there ----------------------------------------------------------------------------------------------

    def checkpoints(self) -> dict[str, Manifest]:
        """Return the manifests of the complete checkpoints by name, oldest first."""
        names = self.names()
        found = {name: manifest for name in names if (manifest := self._manifest_or_none(name)) is not None}
        for name in list(found):
            if REPLACED.fullmatch(name) and f"{CHECKPOINT_PREFIX}{step_of(Path(name))}" in found:
                del found[name]
        return dict(sorted(found.items(), key=lambda item: (item[1]["committed_at"], step_of(Path(item[0])))))

    def names(self) -> list[str]:
        """Return the names of all folders of checkpoints, complete or not."""
        self.fs.invalidate_cache()
        try:
            entries = self.fs.ls(self.root, detail=False)
        except FileNotFoundError:
            return []
        names = [str(entry).rstrip("/").rpartition("/")[2] for entry in entries]
        return sorted(filter(is_checkpoint, names))

    def manifest(self, name: str) -> Manifest:
        """Return the manifest of the checkpoint ``name``.

        Raises:
            BrokenCheckpointError: If it is missing or damaged.
        """
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, name)
            local.mkdir()
            try:
                (local / MANIFEST).write_bytes(self.fs.cat_file(f"{self.root}/{name}/{MANIFEST}"))
            except FileNotFoundError:
                is_there = name in self.names()
                reason = f"has no manifest ({MANIFEST}): its upload is not complete" if is_there else "does not exist"
                raise BrokenCheckpointError(self._path(name), reason) from None
            try:
                return read_manifest(local)
            except BrokenCheckpointError as error:
                raise BrokenCheckpointError(self._path(name), error.reason) from None

    def _path(self, name: str) -> Any:
        """Return the address of a checkpoint, for errors; a Path would join the slashes of ``s3://``."""
        return f"{self.address}/{name}"

    def _manifest_or_none(self, name: str) -> Manifest | None:
        try:
            return self.manifest(name)
        except BrokenCheckpointError:
            return None

    def files(self) -> dict[str, int]:
        """Return the sizes of all files outside of checkpoints, by name relative to the folder."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        sizes = _below(self.root, found)
        return {name: size for name, size in sizes.items() if name and not is_kept_apart(name)}

    def sizes(self, name: str) -> dict[str, int]:
        """Return the sizes of the files of a checkpoint, by name relative to it."""
        return _below(f"{self.root}/{name}", self.fs.find(f"{self.root}/{name}", detail=True))

    def read(self, name: str) -> bytes:
        """Return the content of a small file; nothing if it does not exist."""
        try:
            return bytes(self.fs.cat_file(f"{self.root}/{name}"))
        except FileNotFoundError:
            return b""

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def upload(self, folder: Path, tell: Callable[[int], object] = lambda size: None) -> None:
        """Upload a local checkpoint; its manifest comes last.

        Args:
            folder: The checkpoint.
            tell: Called with the size of each file that is uploaded.
        """
        name, manifest = folder.name, read_manifest(folder)
        there = self._manifest_or_none(name)
        if there == manifest:
            return
        if there is not None:
            self._set_aside(name, there)
        is_whole = False
        while not is_whole:
            for file, entry in manifest["files"].items():
                self.fs.put_file(str(folder / file), f"{self.root}/{name}/{file}")
                tell(entry["size"])
            before, manifest = manifest, read_manifest(folder)
            is_whole = before == manifest  # else the local checkpoint was replaced meanwhile
        with tempfile.TemporaryDirectory() as copy:
            path = Path(copy, MANIFEST)
            path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            self.fs.put_file(str(path), f"{self.root}/{name}/{MANIFEST}")
        for aside in self.names():
            if REPLACED.fullmatch(aside) and step_of(Path(aside)) == manifest["step"]:
                kept = self._manifest_or_none(aside)
                if kept is None or kept["run_id"] == manifest["run_id"]:
                    self.delete(aside)

    def rotate(self, run_id: str, limit: int | None, keep: Collection[str]) -> None:
        """Delete the oldest checkpoints of a run beyond ``limit``, except the newest and those in ``keep``."""
        if limit is None:
            return
        ours = [Path(name) for name, manifest in self.checkpoints().items() if manifest["run_id"] == run_id]
        for path in surplus(ours, limit, {*keep, *(path.name for path in ours[-1:])}):
            self.delete(path.name)

    def delete_others(self, run_id: str) -> None:
        """Delete the checkpoints of all other runs."""
        for name, manifest in self.checkpoints().items():
            if manifest["run_id"] != run_id:
                self.delete(name)

    def clean(self) -> None:
        """Delete what killed uploads have left: folders without a manifest."""
        for name in self.names():
            if not self.fs.exists(f"{self.root}/{name}/{MANIFEST}"):
                self.delete(name)

    def delete(self, name: str) -> None:
        """Delete a checkpoint; its manifest goes first."""
        path = f"{self.root}/{name}"
        if self.fs.exists(f"{path}/{MANIFEST}"):
            self.fs.rm_file(f"{path}/{MANIFEST}")
        self.fs.invalidate_cache()
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def _set_aside(self, name: str, manifest: Manifest) -> None:
        """Rename a checkpoint, file by file, so that it is complete under one name or the other at any time."""
        aside = replaced_name(name)
        try:
            for file in [*manifest["files"], MANIFEST]:
                self.fs.cp_file(f"{self.root}/{name}/{file}", f"{self.root}/{aside}/{file}")
        except NotImplementedError:  # a file system that cannot copy can rename
            self.fs.mv(f"{self.root}/{name}", f"{self.root}/{aside}", recursive=True)
        self.delete(name)

    def download(self, name: str, output_dir: Path) -> Path:
        """Download a checkpoint into a local folder, and verify it; do nothing if the same is there and verifies.

        Raises:
            BrokenCheckpointError: If it is not complete, or does not verify.
        """
        manifest, final = self.manifest(name), output_dir / name
        if is_same(final, manifest):
            return final
        make_folder(output_dir)
        temporary = output_dir / temporary_name(manifest["step"], str(manifest["run_id"]))
        try:
            with claimed(temporary):
                for file in [*manifest["files"], MANIFEST]:
                    (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                    self._get(f"{name}/{file}", temporary / file)
                self._check(name, temporary)
                if os.path.lexists(final):
                    final.rename(final.with_name(replaced_name(final.name)))
                temporary.rename(final)
                sync_folder(output_dir)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def _check(self, name: str, temporary: Path) -> None:
        try:
            verify(temporary)
        except BrokenCheckpointError as error:
            raise BrokenCheckpointError(self._path(name), error.reason) from None

    def _get(self, name: str, path: Path) -> None:
        try:
            self.fs.get_file(f"{self.root}/{name}", str(path))
        except FileNotFoundError:
            path.unlink(missing_ok=True)  # `verify` names every file that is missing
        except Exception as error:
            raise CheckpointError(f"{self.address}/{name} could not be downloaded: {describe(error)}") from error

    # -- other files --------------------------------------------------------------------------------------------------

    def put(self, path: Path, name: str) -> None:
        """Upload one file."""
        self.fs.put_file(str(path), f"{self.root}/{name}")

    def remove(self, name: str) -> None:
        """Delete one file, if it exists."""
        if self.fs.exists(f"{self.root}/{name}"):
            self.fs.rm_file(f"{self.root}/{name}")

    def download_files(self, output_dir: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Download the files outside of checkpoints that the local folder does not have, by their relative names."""
        for name in filter(is_wanted, self.files()):
            path = output_dir / name
            if path.resolve().is_relative_to(output_dir.resolve()) and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
                self._get(name, temporary)
                temporary.replace(path)


def get_last_checkpoint(folder: str | Path) -> str | None:
    """Return the newest checkpoint in ``folder`` that verifies, like the function of that name in transformers.

    At an address, it is the newest that is complete, as an address; it is verified when it is downloaded.
    """
    if is_address(folder):
        remote = RemoteFolder(str(folder), "folder")
        names = list(remote.checkpoints())
        return f"{remote.address}/{names[-1]}" if names else None
    path, _ = newest_valid(Path(folder).expanduser())
    return None if path is None else str(path)


def _below(root: str, found: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of files by name relative to ``root``, from what fsspec has found of them by path."""
    return {path.strip("/").removeprefix(root.strip("/")).lstrip("/"): info["size"] for path, info in found.items()}


def is_kept_apart(name: str) -> bool:
    """Return whether a file, by its name relative to the run's folder, is part of a checkpoint, hidden or temporary."""
    first = name.split("/")[0]
    return first.startswith((".", CHECKPOINT_PREFIX)) or name.rpartition("/")[2].startswith(".")


def is_same(folder: Path, manifest: Manifest) -> bool:
    """Return whether ``folder`` is a checkpoint that has this manifest, and verifies."""
    try:
        return read_manifest(folder) == manifest and verify(folder) == manifest
    except BrokenCheckpointError:
        return False
