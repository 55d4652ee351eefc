"""The differences of two checkpoints: arguments, state, callbacks, weights and optimizer. No code of theirs is run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trackside.cli.checkpoint_arrays import Arrays, arrays_of
from trackside.cli.report import block
from trackside.trainer.checkpointing.manifest import Contents, open_checkpoint
from trackside.trainer.checkpointing.names import ARGS_FILE, PROGRESS_FILE, STATE_FILE

FILES = {"arguments": ARGS_FILE, "state": STATE_FILE, "progress": PROGRESS_FILE}
"""The JSON files that are compared key by key."""

WIDTH = 60
"""Characters of a value that are shown; --json has all of it."""

ROLES = {"weights": ("weights", "shards"), "optimizer": ("optimizer",)}
"""The parts with arrays, and the roles of their files."""


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Return the differences of two checkpoints, both of which are verified.

    Raises:
        CheckpointError: If one does not verify.
    """
    both = open_checkpoint(first), open_checkpoint(second)
    found: dict[str, Any] = {"first": str(first), "second": str(second), "notes": []}
    for part, name in FILES.items():
        old, new = (_json(contents, name) for contents in both)
        if part == "state":
            callbacks = [values.pop("stateful_callbacks", None) or {} for values in (old, new)]
            old["log_history"], new["log_history"] = (_records(values) for values in (old, new))
            found["callbacks"] = _differences(*(flat(states) for states in callbacks))
        found[part] = _differences(flat(old), flat(new))
    for part, roles in ROLES.items():
        arrays: list[Arrays] = []
        for contents in both:
            read = [arrays_of(contents, role) for role in roles]
            arrays.append({name: array for found_arrays, _ in read for name, array in found_arrays.items()})
            found["notes"] += [f"{contents.path.name}: {fault}" for _, faults in read for fault in faults]
        found[part] = _array_differences(*arrays)
    return found


def shown(differences: Mapping[str, Any], top: int) -> str:
    """Return the differences as text, with the ``top`` arrays of each part that differ most."""
    blocks = [f"{differences['first']}  ->  {differences['second']}"]
    for part in ("arguments", "state", "progress", "callbacks"):
        rows = [(name, f"{_text(old)}  ->  {_text(new)}") for name, (old, new) in differences[part].items()]
        blocks.append(block(part.capitalize(), rows) if rows else f"{part.capitalize()}: the same")
    blocks += [_arrays_shown(part.capitalize(), differences[part], top) for part in ROLES]
    return "\n\n".join([*blocks, *differences["notes"]])


def _arrays_shown(title: str, found: Mapping[str, Any], top: int) -> str:
    rows: Sequence[Mapping[str, Any]] = found["differ"]
    lines = [f"{title}: {found['same']} arrays are the same, {len(rows)} differ"]
    if rows:
        head = ("array", "shape", "norm of A", "norm of B", "largest difference", "relative")
        table = [head, *((row["name"], _shape(row), *map(_text, _numbers(row))) for row in rows[:top])]
        lines = [block(lines[0], table)]
        if len(rows) > top:
            lines.append(f"  and {len(rows) - top} more (--top)")
    for side, key in (("A", "only_first"), ("B", "only_second")):
        if found[key]:
            lines.append(f"  only in {side}: {', '.join(found[key][:top])}{', ...' if len(found[key]) > top else ''}")
    return "\n".join(lines)


def _numbers(row: Mapping[str, Any]) -> list[Any]:
    return [row[key] for key in ("norm_first", "norm_second", "largest", "relative")]


def _shape(row: Mapping[str, Any]) -> str:
    shapes = ["x".join(map(str, shape)) or "number" for shape in row["shapes"]]
    return shapes[0] if shapes[0] == shapes[1] else f"{shapes[0]} -> {shapes[1]}"


def _array_differences(first: Arrays, second: Arrays) -> dict[str, Any]:
    rows = [_row(name, first[name], second[name]) for name in first if name in second]
    differ = [row for row in rows if row is not None]
    return {
        "same": len(rows) - len(differ),
        "differ": sorted(differ, key=lambda row: (row["largest"] is not None, -(row["largest"] or 0.0))),
        "only_first": sorted(first.keys() - second.keys()),
        "only_second": sorted(second.keys() - first.keys()),
    }


def _row(name: str, first: Any, second: Any) -> dict[str, Any] | None:
    """Return how two arrays differ, None if they do not; a number that is not finite becomes None."""
    is_same_shape = first.shape == second.shape
    if is_same_shape and np.array_equal(first, second, equal_nan=True):
        return None
    old, new = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    norms = float(np.linalg.norm(old.ravel())), float(np.linalg.norm(new.ravel()))
    gap = np.abs(new - old) if is_same_shape else np.array([math.nan])
    relative = float(np.linalg.norm(gap.ravel())) / norms[0] if norms[0] else math.nan
    values = {"norm_first": norms[0], "norm_second": norms[1], "largest": float(gap.max()), "relative": relative}
    finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
    return {"name": name, "shapes": [list(first.shape), list(second.shape)], **finite}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = [*old, *(name for name in new if name not in old)]
    pairs = {name: [old.get(name), new.get(name)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _records(values: Mapping[str, Any]) -> str:
    return f"{len(values.get('log_history') or [])} records"


def flat(values: Any, name: str = "") -> dict[str, Any]:
    """Return the values in nested dictionaries, each by its path."""
    if not isinstance(values, Mapping) or not values:
        return {name: values} if name else {}
    return {
        path: item
        for key, value in values.items()
        for path, item in flat(value, f"{name}.{key}" if name else str(key)).items()
    }


def _json(contents: Contents, name: str) -> dict[str, Any]:
    path = contents.find(name)
    if path is None:
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
