"""Sharded checkpoints of FSDP2 without pickled code.

torch.distributed.checkpoint writes and reads the tensors. It pickles its index, and unpickles values that are not
tensors, such as hyperparameters; a pickle can run code when it is read. Here the index is a JSON file, and the values
are loaded with ``weights_only=True``.

Source:
    https://pytorch.org/docs/stable/distributed.checkpoint.html
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.storage import WriteResult

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import BrokenCheckpointError, Contents

from ..snapshot import SHARDS

INDEX_FILE = "index.json"
"""Index file: maps each piece of a tensor, and each value, to a range of bytes in a file."""


@dataclass(frozen=True)
class Place:
    """The byte range of a piece, with the attribute names that torch's reader expects."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class ShardsWriter(FileSystemWriter):
    """Writes shards as torch does, with the index as JSON."""

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index; called only on the first process, after all have written their shares."""
        places = {
            result.index: [result.storage_data.relative_path, result.storage_data.offset, result.storage_data.length]
            for share in results
            for result in share
        }
        index: dict[str, dict[str, Any]] = {"tensors": {}, "values": {}}
        for name, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, TensorStorageMetadata):
                pieces = [
                    [piece.offsets, piece.sizes, places[MetadataIndex(name, piece.offsets)]] for piece in entry.chunks
                ]
                index["tensors"][name] = [entry.size, pieces]
            else:
                index["values"][name] = places[MetadataIndex(name)]
        Path(self.checkpoint_id, INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")


class ShardsReader(FileSystemReader):
    """Reads the shards of a checkpoint, only from files with that role.

    Raises:
        CheckpointError: If the index does not exist, or is not valid.
    """

    def __init__(self, checkpoint: Contents) -> None:
        super().__init__(checkpoint.path / SHARDS)
        self._metadata = _read_index(checkpoint)

    @property
    def names(self) -> Collection[str]:
        """The names of all tensors and values."""
        return self._metadata.state_dict_metadata.keys()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index."""
        return self._metadata


class DataPlanner(DefaultLoadPlanner):
    """Loads values that are not tensors as data, without code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Load a value as data, and pass a copy to torch's own method, which would unpickle anything."""
        copy = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), copy)
        copy.seek(0)
        super().load_bytes(read_item, copy)


def _read_index(checkpoint: Contents) -> Metadata:
    path, files = Path(SHARDS, INDEX_FILE), checkpoint.names("shards")
    if path.as_posix() not in files:
        raise BrokenCheckpointError(
            checkpoint.path, f"holds shards without {path}; torch's own .metadata is a pickle and is not read"
        )
    try:
        index = json.loads((checkpoint.path / path).read_text(encoding="utf-8"))
        return _metadata(index["tensors"], index["values"], files)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint.path / path} cannot be read: {error!r}") from error


def _metadata(tensors: Mapping[str, Any], values: Mapping[str, Any], files: Collection[str]) -> Metadata:
    entries: dict[str, Any] = {name: BytesStorageMetadata() for name in values}
    places = {MetadataIndex(name): _place(place, files) for name, place in values.items()}
    for name, (size, pieces) in tensors.items():
        chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes, _ in pieces]
        entries[name] = TensorStorageMetadata(TensorProperties(), torch.Size(size), chunks)
        places |= {MetadataIndex(name, offsets): _place(place, files) for offsets, _, place in pieces}
    return Metadata(entries, storage_data=places)


def _place(place: Any, files: Collection[str]) -> Place:
    name, offset, length = place
    if f"{SHARDS}/{name}" not in files:
        raise LookupError(f"{name} is not a file of the checkpoint's shards")
    return Place(name, int(offset), int(length))
