"""W&B datastore: the .wandb file of a run, a LevelDB log of protocol buffers.

The file begins with a header of 7 bytes. Records follow, split so that no part crosses the border of a block of 32 KiB.
Each part has a header of 7 bytes: checksum (4), length (2) and type (1). A part that is torn at the end, because the
run still goes on or was killed, is ignored.

Source:
    LevelDB's log format, https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import none_if_unreadable

HEADER_BYTES = 7
BLOCK_BYTES = 32768
WHOLE, FIRST, LAST = 1, 2, 4
"""Types of a part; 3 is a middle part."""


def read_records(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield the records (``wandb.proto.wandb_internal_pb2.Record``) of a .wandb file."""
    return _parsed(_payloads(Path(path).read_bytes()))


def read_history(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the step and the values of every row of a run's history."""
    for record in read_records(path):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield int(row.get("_step", record.history.step.num)), row


def run_file(run: Any) -> Path:
    """Return the .wandb file that an offline run (``wandb.Run``) writes to."""
    return Path(run.dir).parent / f"run-{run.id}.wandb"


def earlier_files(run: Any) -> list[Path]:
    """Return the .wandb files of the earlier parts of an offline run, from old to new."""
    own = run_file(run)
    return sorted(path for path in own.parent.parent.glob(f"*run-*-{run.id}*/{own.name}") if path != own)


@none_if_unreadable
def read_last_steps(paths: Iterable[Path]) -> dict[str, int]:
    """Return the last step of every curve in the .wandb files of one run, given from old to new."""
    return {name: step for path in paths for step, row in read_history(path) for name in row}


@none_if_unreadable
def is_complete(path: Path) -> bool:
    """Return whether the file exists and ends with the record of the run's exit; reads the last block only."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        start = max(file.seek(0, os.SEEK_END) - 1, 0) // BLOCK_BYTES * BLOCK_BYTES
        file.seek(start)
        content = file.read()
    kinds = [record.WhichOneof("record_type") for record in _parsed(_payloads(content, 0 if start else HEADER_BYTES))]
    return kinds[-1:] == ["exit"]


def wait_until_complete(path: Path, timeout_s: float = 5.0) -> None:
    """Wait until W&B's service has written the whole file of an offline run, which it does after ``run.finish()``.

    Args:
        path: The .wandb file.
        timeout_s: Longest wait, in seconds. There is no wait if the file cannot be read.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and is_complete(path) is False:
        time.sleep(0.01)


def _parsed(payloads: Iterable[bytes]) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    return map(wandb_internal_pb2.Record.FromString, payloads)


def _payloads(content: bytes, position: int = HEADER_BYTES) -> Iterator[bytes]:
    parts: bytes | None = None
    while position + HEADER_BYTES <= len(content):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < HEADER_BYTES:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += HEADER_BYTES
        if kind == 0 or position + length > len(content):
            return
        data = content[position : position + length]
        position += length
        if kind in (WHOLE, FIRST):
            parts = data
        elif parts is not None:
            parts += data
        if kind in (WHOLE, LAST) and parts is not None:
            yield parts
