"""What may become of a checkpoint on its way: another version's manifest, another byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trackside.trainer.checkpointing.manifest import MANIFEST


def strip_roles(folder: Path) -> None:
    """Make the manifest one of a version that knew no roles."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for entry in manifest["files"].values():
        del entry["role"]
    reseal(folder, manifest)


def reseal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with a digest that is right."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({**body, "digest": digest}))


def flip_a_byte(path: Path) -> None:
    """Change one byte near the end of a file; its size stays."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)


def rewritten(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the values of a JSON file of a checkpoint; its manifest goes along."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    sealed_again(path)


def sealed_again(path: Path) -> None:
    """Give the manifest the size and the digest that a file has now."""
    manifest = json.loads((path.parent / MANIFEST).read_text())
    content = path.read_bytes()
    manifest["files"][path.name] |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    reseal(path.parent, manifest)


def without_role(folder: Path, role: str) -> None:
    """Give the files of a role no role."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for entry in manifest["files"].values():
        entry["role"] = "other" if entry["role"] == role else entry["role"]
    reseal(folder, manifest)
