"""Reading the .wandb file of a run: a LevelDB log of protocol buffers.

The file begins with seven bytes; then come records, none of which crosses the border of a block of 32 KiB, each with a
header of seven bytes: checksum (4), length (2), type (1: whole, 2: first part, 3: middle part, 4: last part). What is
torn at the end, since the run is still going on or was killed, is left out.

Source:
    LevelDB's log format, https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER_BYTES = 7
BLOCK_BYTES = 32768
WHOLE, FIRST, _MIDDLE, LAST = 1, 2, 3, 4


def read_records(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield the records (``wandb.proto.wandb_internal_pb2.Record``) of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    for data in _payloads(Path(path).read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        yield record


def read_history(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the step and the values of every row of a run's history."""
    for record in read_records(path):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield int(row.get("_step", record.history.step.num)), row


def is_finished(path: str | os.PathLike[str]) -> bool:
    """Return whether the file ends with the record of the run's end; reads its last blocks only."""
    from wandb.proto import wandb_internal_pb2

    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(size - 1, 0) // BLOCK_BYTES * BLOCK_BYTES
        file.seek(begin)
        content = file.read()
    record = wandb_internal_pb2.Record()
    for data in _payloads(content, HEADER_BYTES if begin == 0 else 0):
        record.ParseFromString(data)
    return bool(record.WhichOneof("record_type") == "exit")


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
