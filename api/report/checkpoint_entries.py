"""What a folder or an address holds: each checkpoint with its run, size, metric, and whether it is whole."""

from __future__ import annotations

import contextlib
import json
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackside.callbacks.metrics import SPEEDS
from trackside.report.run_files import check_folder, reached
from trackside.trainer.checkpointing.discovery import find_checkpoints
from trackside.trainer.checkpointing.files.documents import DocumentError, read_document
from trackside.trainer.checkpointing.manifest import MANIFEST, BrokenCheckpointError, read_manifest, verify
from trackside.trainer.checkpointing.names import STATE_FILE, step_of
from trackside.trainer.checkpointing.remote import RemoteFolder
from trackside.trainer.staging import is_address


@dataclass
class Entry:
    """One checkpoint.

    Attributes:
        name: The name of its folder.
        run_id: The run that wrote it; None if its manifest cannot be read.
        step: Updates completed.
        size_bytes: The size of the files that the manifest lists.
        committed_at: Time of the commit, in nanoseconds since 1970.
        metric: The last evaluation: its metric and value.
        is_best: Whether its run names it as the best.
        is_newest: Whether it is the newest whole one of its run.
        reason: Why it is not whole; None if it is.
    """

    name: str
    run_id: str | None = None
    step: int = -1
    size_bytes: int = 0
    committed_at: int | None = None
    metric: str | None = None
    is_best: bool = False
    is_newest: bool = False
    reason: str | None = None


def entries_in(out: str, *, thorough: bool) -> list[Entry]:
    """Return the checkpoints in a folder or at an address, oldest first.

    Args:
        thorough: Read every file, instead of only the manifests, the states, and the sizes of the others.

    Raises:
        ConfigError: If the folder does not exist.
    """
    found: list[tuple[Entry, dict[str, Any]]] | None = None
    if is_address(out):
        with reached(out) as remote:
            found = _remote_entries(remote, thorough=thorough)
    if found is None:
        read = [(path, _entry(path, thorough=thorough), _state(path)) for path in paths_in(Path(out).expanduser())]
        found = [(entry, state) for path, entry, state in read if path.exists()]  # a run that goes on may delete one
    for run_id in {entry.run_id for entry, _ in found}:
        whole = [(entry, state) for entry, state in found if entry.run_id == run_id and entry.reason is None]
        if run_id is not None and whole:
            newest, state = whole[-1]
            newest.is_newest = True
            best = Path(str(state.get("best_model_checkpoint") or "")).name
            for entry, _ in whole:
                entry.is_best = entry.name == best or (not best and entry.step == state.get("best_global_step"))
    return [entry for entry, _ in found]


def paths_in(out: Path) -> list[Path]:
    """Return the checkpoints in a folder, or the folder itself if it is one.

    Raises:
        ConfigError: If it does not exist; the message names the nearest.
    """
    check_folder(out)
    return find_checkpoints(out) or ([out] if (out / MANIFEST).exists() or step_of(out) >= 0 else [])


def size_text(size_bytes: float) -> str:
    """Return a size in a unit that fits.

    Example:
        >>> size_text(948), size_text(1_234_567)
        ('948 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def _entry(path: Path, *, thorough: bool) -> Entry:
    entry = Entry(path.name, step=step_of(path))
    try:
        manifest = read_manifest(path)
        _describe(entry, manifest, _state(path))
        if thorough:
            verify(path)
        else:
            entry.reason = _size_fault(manifest, _sizes(path, manifest["files"]))
    except BrokenCheckpointError as error:
        entry.reason = error.reason
    return entry


def _remote_entries(remote: RemoteFolder, *, thorough: bool) -> list[tuple[Entry, dict[str, Any]]]:
    found: list[tuple[Entry, dict[str, Any]]] = []
    for name in sorted(remote.names(), key=lambda name: step_of(Path(name))):
        entry, state = Entry(name, step=step_of(Path(name))), {}
        try:
            manifest = remote.manifest(name)
            state = _parsed(remote.read(f"{name}/{STATE_FILE}"))
            _describe(entry, manifest, state)
            entry.reason = _size_fault(manifest, remote.sizes(name))
            if thorough and entry.reason is None:
                with tempfile.TemporaryDirectory() as folder:
                    remote.download(name, Path(folder))
        except BrokenCheckpointError as error:
            entry.reason = error.reason
        found.append((entry, state))
    return sorted(found, key=lambda item: item[0].committed_at or 0)


def _describe(entry: Entry, manifest: dict[str, Any], state: dict[str, Any]) -> None:
    entry.run_id, entry.step, entry.committed_at = manifest["run_id"], manifest["step"], manifest["committed_at"]
    entry.size_bytes = sum(file["size"] for file in manifest["files"].values())
    records = [record for record in state.get("log_history", []) if any(key.startswith("eval_") for key in record)]
    values = records[-1] if records else {}
    metrics = {key: value for key, value in values.items() if key.startswith("eval_") and not key.endswith(SPEEDS)}
    shown = (f"{key} {value:.6g}" for key, value in metrics.items() if isinstance(value, (int, float)))
    entry.metric = "  ".join(shown) or None


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the sizes of those files that exist."""
    found: dict[str, int] = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # a run that goes on may delete the checkpoint
            status = (folder / name).stat()
            found |= {name: status.st_size} if stat.S_ISREG(status.st_mode) else {}
    return found


def _size_fault(manifest: dict[str, Any], sizes: dict[str, int]) -> str | None:
    faults = [
        f"lacks {name}" if name not in sizes else f"has {sizes[name]} bytes in {name}, its manifest says {file['size']}"
        for name, file in manifest["files"].items()
        if sizes.get(name) != file["size"]
    ]
    return "; ".join(faults) or None


def _state(path: Path) -> dict[str, Any]:
    try:
        return read_document(path, STATE_FILE)
    except (DocumentError, OSError):
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        state = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}
