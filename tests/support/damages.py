"""What may become of a checkpoint on its way: another version's manifest, another byte."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
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


# -- random damages ---------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**70, 10**300, float("nan"), float("inf"), "", "x", "../x", "/etc/passwd"),
    *([], {}, [[[]]], {"a": None}),
)


def damaged_at_random(folder: Path, random: Random) -> str:
    """Damage one file of a checkpoint in one of many ways; return what was done."""
    names = sorted(path.name for path in folder.iterdir())
    path = folder / random.choice(names)
    how = random.choice([truncate, flip, delete, replace, swap, edit_json, edit_json, edit_json, write_text])
    return f"{how.__name__} {path.name}: {how(path, random)}"


def truncate(path: Path, random: Random) -> Any:
    size = random.randrange(path.stat().st_size)
    os.truncate(path, size)
    return size


def flip(path: Path, random: Random) -> Any:
    content = bytearray(path.read_bytes())
    at = random.randrange(len(content))
    content[at] ^= 1 << random.randrange(8)
    path.write_bytes(content)
    return at


def delete(path: Path, random: Random) -> Any:
    path.unlink()


def replace(path: Path, random: Random) -> Any:
    path.unlink()
    kind = random.choice(["folder", "link", "device", "pipe", "dangling"])
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link": "/etc/passwd", "device": "/dev/zero", "dangling": "/nowhere"}[kind])
    return kind


def swap(path: Path, random: Random) -> Any:
    """Swap a file with another one; mostly the manifest goes along."""
    other = random.choice([item for item in sorted(path.parent.iterdir()) if item != path])
    contents = path.read_bytes(), other.read_bytes()
    other.write_bytes(contents[0]), path.write_bytes(contents[1])
    if MANIFEST not in (path.name, other.name) and random.random() < 0.7:
        sealed_again(path), sealed_again(other)
    return other.name


def write_text(path: Path, random: Random) -> Any:
    """Write another text; the manifest goes along."""
    texts = ['{"a": 1, "a": 2}', "[" * 5000 + "]" * 5000, "NaN", "", "1" * 10_000, '{"step": 1e999}', "\0"]
    text = random.choice(texts)
    path.write_text(text)
    if path.name != MANIFEST:
        sealed_again(path)
    return text[:20]


def edit_json(path: Path, random: Random) -> Any:
    """Change, remove or add one value of a JSON file; the manifest goes along."""
    path = random.choice(sorted(path.parent.glob("*.json")))
    values = json.loads(path.read_text())
    place, key = values, None
    while isinstance(place, dict | list) and place:
        parent, key = place, random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place = parent[key]
        if random.random() < 0.5:
            break
    value = random.choice(ODD)
    if isinstance(parent, dict) and random.random() < 0.2:
        del parent[key]
    else:
        parent[key] = value
    if path.name == MANIFEST:
        reseal(path.parent, values)
    else:
        path.write_text(json.dumps(values))
        sealed_again(path)
    return path.name, key, value
