"""Everything that a run computed, as named streams: a digest or a value for each step."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trackside.callbacks.metrics import SPEEDS
from trackside.cli.chaos.trace import BATCH, LIVE, digest, read_trace
from trackside.cli.checkpoint_arrays import arrays_of
from trackside.cli.checkpoint_diff import flat
from trackside.trainer.checkpointing.discovery import find_checkpoints
from trackside.trainer.checkpointing.manifest import BrokenCheckpointError, Contents, contents_of, open_checkpoint
from trackside.trainer.checkpointing.names import PROGRESS_FILE, STATE_FILE, step_of

RANDOM = "random numbers"
KINDS = (LIVE, RANDOM, BATCH, "record", "weights", "optimizer", "schedule", "scaler", "progress", "callback", "state")
"""Kinds of streams, causes before effects: of several that differ at a step, the first of these is named."""

ROLES = {
    "weights": "weights",
    "shards": "weights",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "scaler": "scaler",
}
"""Roles of files with arrays, and the kinds of their streams."""

NOT_COMPARED = (*SPEEDS, "total_flos")
END = 2**62
"""The step of what a run has at its end."""

Streams = dict[str, Any]


@dataclass
class Found:
    """What a run computed.

    Attributes:
        seen: Streams by step and source, several times where a step was done again after a kill.
        ended: Streams by step that a whole run has once: its records, and its state and weights at the end.
    """

    seen: dict[tuple[int, str], list[Streams]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[int, Streams] = field(default_factory=lambda: defaultdict(dict))


@dataclass(frozen=True, order=True)
class Difference:
    """A stream that differs at a step.

    Attributes:
        step: Where it differs first.
        rank: The place of its kind in `KINDS`.
        stream: Its name.
    """

    step: int
    rank: int
    stream: str


def differences(first: Found, second: Found) -> list[Difference]:
    """Return each stream that differs, with its first step, in the order of steps; those of one step by kind."""
    found: dict[str, int] = {}
    for key in sorted(first.seen.keys() & second.seen.keys()):
        for one, other in itertools.product(first.seen[key], second.seen[key]):
            _note(found, key[0], one, other)
    for step in sorted(first.ended.keys() | second.ended.keys()):
        _note(found, step, first.ended.get(step, {}), second.ended.get(step, {}))
    return sorted(Difference(step, rank_of(stream), stream) for stream, step in found.items())


def rank_of(stream: str) -> int:
    """Return the place of a stream's kind in `KINDS`."""
    return next((rank for rank, kind in enumerate(KINDS) if stream.startswith(kind)), len(KINDS))


def _note(found: dict[str, int], step: int, one: Streams, other: Streams) -> None:
    for name in one.keys() | other.keys():
        if one.get(name) != other.get(name):
            found[name] = min(step, found.get(name, step))


# -- reading a run ----------------------------------------------------------------------------------------------------


def read_run(out: Path, kept: Path, trace: Path) -> Found:
    """Return what a run computed.

    Args:
        out: Its output folder.
        kept: Copies of its checkpoints.
        trace: Its trace, which may not exist.
    """
    found = Found()
    for step, streams in read_trace(trace):
        found.seen[step, "trace"].append(streams)
    last: Mapping[str, Any] = {}
    for path in sorted(find_checkpoints(kept), key=step_of):
        try:
            contents = open_checkpoint(path)
        except BrokenCheckpointError as error:
            found.ended[step_of(path)]["state of the checkpoint"] = error.reason
            continue
        last = contents.read(STATE_FILE) or {}
        found.seen[step_of(path), "checkpoint"].append(_of_checkpoint(contents, last, out))
    if out.is_dir():
        contents = contents_of(out)
        last = contents.read(STATE_FILE) or last
        found.ended[END] |= _arrays(contents, ("weights",))
    found.ended[END]["state: global_step"] = last.get("global_step")
    for record in last.get("log_history") or []:
        _add_record(found.ended[int(record.get("step", 0))], record)
    return found


def _of_checkpoint(contents: Contents, state: Mapping[str, Any], out: Path) -> Streams:
    found = _arrays(contents, tuple(ROLES)) | _random_numbers(contents)
    rest = {name: value for name, value in state.items() if name not in ("log_history", "stateful_callbacks")}
    documents = {
        "callback": state.get("stateful_callbacks") or {},
        "progress": contents.read(PROGRESS_FILE) or {},
        "state": rest,
    }
    for kind, values in documents.items():
        found |= {f"{kind}: {name}": _text(value, out) for name, value in flat(values).items()}
    return found


def _arrays(contents: Contents, roles: tuple[str, ...]) -> Streams:
    found: Streams = {}
    for role in roles:
        for name, array in arrays_of(contents, role)[0].items():
            found[f"{ROLES[role]}: {name}"] = digest(array)
        for values in _documents(contents, role):
            found |= {f"{ROLES[role]}: {path}": json.dumps(value) for path, value in flat(values).items()}
    return found


def _random_numbers(contents: Contents) -> Streams:
    found: Streams = {}
    for file in contents.names("rng"):
        own = dataclasses.replace(contents, roles={file: "rng"})
        parts: dict[str, list[Any]] = defaultdict(list)
        for name, array in arrays_of(own, "rng")[0].items():
            parts[name.partition(".")[0]].append([name, array])
        for values in _documents(own, "rng"):
            parts |= {name: [value] for name, value in values.items()}
        rank = "" if len(contents.names("rng")) == 1 else f" ({Path(file).stem})"
        found |= {f"{RANDOM}: {name}{rank}": digest(values) for name, values in parts.items()}
    return found


def _documents(contents: Contents, role: str) -> Iterator[dict[str, Any]]:
    for name in contents.names(role):
        if name.endswith(".json") and not name.endswith("index.json"):
            yield json.loads((contents.path / name).read_text(encoding="utf-8"))


def _add_record(streams: Streams, record: Mapping[str, Any]) -> None:
    for key, value in record.items():
        if key != "step" and not key.endswith(NOT_COMPARED):
            streams.setdefault(f"record: {key}", []).append(json.dumps(value))


def _text(value: Any, out: Path) -> str:
    """Return a value as text, with another name for the output folder: each run has its own."""
    return json.dumps(value).replace(json.dumps(str(out))[1:-1], "OUT")
