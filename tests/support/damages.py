"""What may become of a checkpoint on its way: another version's manifest, another byte."""

from __future__ import annotations

import hashlib
import json
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
