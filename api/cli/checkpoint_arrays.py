"""Arrays of a checkpoint, by name, read as data. A framework is imported only for files that nothing else can read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trackside.callbacks.errors import describe
from trackside.trainer.checkpointing.manifest import Contents

Arrays = dict[str, Any]

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "BOOL": "?",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
}
"""numpy's names of the types of safetensors."""


def arrays_of(contents: Contents, role: str) -> tuple[Arrays, list[str]]:
    """Return the arrays in the files of a role by name, and a sentence about each file that cannot be read."""
    found: Arrays = {}
    faults = []
    for name in contents.names(role):
        read = _reader_of(name)
        if read is None:
            continue
        try:
            found |= read(contents.path / name)
        except ImportError as error:
            faults.append(f"{name} is not compared: reading it needs the package {error.name!r}")
        except Exception as error:  # whatever a library raises on a damaged file
            faults.append(f"{name} is not compared: {describe(error)}")
    return found, faults


def _reader_of(name: str) -> Callable[[Path], Arrays] | None:
    if name == "shards/index.json":
        return _shards
    return {".safetensors": _safetensors, ".h5": _h5, ".npz": _npz, ".pt": _torch}.get(Path(name).suffix)


def _safetensors(path: Path) -> Arrays:
    import safetensors

    read: Any = safetensors.deserialize
    return {name: _typed(tensor) for name, tensor in read(path.read_bytes())}


def _typed(tensor: Mapping[str, Any]) -> Any:
    data, dtype = tensor["data"], tensor["dtype"]
    if dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")
    else:  # types that numpy does not have are compared by their bits
        values = np.frombuffer(data, dtype=DTYPES.get(dtype, "u1"))
    return values.reshape(tensor["shape"] if dtype == "BF16" or dtype in DTYPES else -1)


def _h5(path: Path) -> Arrays:
    import h5py

    found: Arrays = {}

    def take(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "biuf":
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return found


def _npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if file[name].dtype.kind in "biuf"}


def _torch(path: Path) -> Arrays:
    import torch

    return dict(_flat("", torch.load(path, map_location="cpu", weights_only=True)))


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors and numbers in nested dictionaries and lists, each by its path."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    else:
        items = []
        if hasattr(value, "detach"):
            yield name, value.detach().double().numpy() if value.is_floating_point() else value.numpy()
        elif isinstance(value, (int, float)):
            yield name, np.asarray(value)
    for key, item in items:
        yield from _flat(f"{name}.{key}" if name else str(key), item)


def _shards(index: Path) -> Arrays:
    """Return the tensors of a sharded checkpoint, each put together from its pieces."""
    import torch

    found: Arrays = {}
    for name, (size, pieces) in json.loads(index.read_text(encoding="utf-8"))["tensors"].items():
        whole = np.zeros(size)
        for offsets, sizes, (file, offset, length) in pieces:
            with open(index.parent / Path(file).name, "rb") as stream:
                stream.seek(offset)
                piece = torch.load(io.BytesIO(stream.read(length)), map_location="cpu", weights_only=True)
            place = tuple(slice(at, at + count) for at, count in zip(offsets, sizes, strict=True))
            whole[place] = piece.double().numpy()
        found[name] = whole
    return found
