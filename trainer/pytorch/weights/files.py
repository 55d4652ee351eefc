"""Weight files: which of a folder's files they are, writing and reading.

Weights are safetensors; entries of a state dict that safetensors cannot hold (data from ``get_extra_state``, sparse and
complex tensors) are in a torch file that loads with ``weights_only=True``. Tied weights are written once; the metadata
of the file has their other names. In a checkpoint, what a file of ``save_pretrained`` has, under whatever name, is not
written again; the metadata of our own file has those names.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks._util.display import first_names
from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing.manifest import BrokenCheckpointError, Contents

from ...checkpointing.saving.hashed_file import system_errors
from ..host_copy import place_of
from ..snapshot import read_torch
from .names import plainly_named

WEIGHTS_FILE = "model.safetensors"
OWN_FILE = "trackside_model.safetensors"
"""Name of the weights where ``save_pretrained`` of the model uses `WEIGHTS_FILE` for other names or values."""
EXTRA_FILE = "model_extra_state.pt"
"""File of the entries that safetensors cannot hold."""
INDEX_FILE = "model.safetensors.index.json"
"""Index of weights that transformers split into several files."""
TIES = "ties"
"""Entry of the metadata of a weight file: the names that are not written, each with the name of the same weight."""
ELSEWHERE = "elsewhere"
"""Entry of the metadata of `OWN_FILE`: the weights that are only in the other files, each with its name there."""
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2}
STORED_TYPES = _FLOATS | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
"""Types that every supported version of safetensors can hold."""


# -- which files ------------------------------------------------------------------------------------------------------


def weights_files(folder: Path, names: Collection[str]) -> list[str]:
    """Return the weight files among ``names`` in ``folder``; empty if there are none.

    Raises:
        CheckpointError: If a file named in an index is missing, or the index cannot be read.
    """
    first = next((name for name in (OWN_FILE, WEIGHTS_FILE, INDEX_FILE) if name in names), None)
    if first is None:
        first = _only(names, "*.safetensors.index.json") or _only(names, "*.safetensors")
    if first is None:
        return []
    extra = [EXTRA_FILE] if EXTRA_FILE in names else []
    if first == OWN_FILE and _elsewhere(folder):
        extra = [OWN_FILE, *extra]
        first = next((name for name in (WEIGHTS_FILE, INDEX_FILE) if name in names), None)
        if first is None:
            raise CheckpointError(f"{folder} lacks the weights that {OWN_FILE} leaves to {WEIGHTS_FILE}")
    return [first, *extra] if first.endswith(".safetensors") else [*_parts(folder, first, names), first, *extra]


def _only(names: Collection[str], pattern: str) -> str | None:
    fitting = [name for name in names if fnmatchcase(name, pattern)]
    return fitting[0] if len(fitting) == 1 else None


def _parts(folder: Path, index: str, names: Collection[str]) -> list[str]:
    try:
        parts = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / index} cannot be read: {error!r}") from error
    if missing := parts.difference(names):
        raise CheckpointError(f"{folder} lacks {first_names(sorted(map(str, missing)))}, which {index} names")
    return sorted(parts)


def _elsewhere(folder: Path) -> dict[str, str]:
    """Return what `OWN_FILE` leaves to other files; empty if it cannot be read, which reading its weights tells."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / OWN_FILE, "pt") as file:
            found: dict[str, str] = json.loads((file.metadata() or {}).get(ELSEWHERE, "{}"))
    except (SafetensorError, OSError):
        return {}
    return found


def weights_in(folder: Path) -> list[str]:
    """Return the names of the weight files in ``folder``; empty if there are none."""
    return weights_files(folder, os.listdir(folder))


# -- writing ----------------------------------------------------------------------------------------------------------


def stored(weights: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the entries of a state dict that safetensors can hold, and the others.

    Parameters without a shape yet (of lazy modules) are left out.
    """
    entries = {name: value for name, value in weights.items() if not nn.parameter.is_lazy(value)}
    tensors = {name: value for name, value in entries.items() if _is_stored(value)}
    return tensors, {name: value for name, value in entries.items() if name not in tensors}


def _is_stored(value: Any) -> bool:
    is_plain = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
    return is_plain and value.dtype in STORED_TYPES and not value.is_meta


def check_data(weights: Mapping[str, Any]) -> None:
    """Raise if an entry of a state dict can be written neither as a tensor nor as data without code.

    Raises:
        CheckpointError: The message names the entry.
    """
    for name, value in stored(weights)[1].items():
        try:
            if isinstance(value, Tensor) and value.is_meta:
                raise TypeError("it is on the meta device, so it has no values")
            file = io.BytesIO()
            torch.save(value, file)
            file.seek(0)
            torch.load(file, weights_only=True)
        except Exception as error:
            named = re.search(r"Unsupported global: (?:GLOBAL )?(\S+)", str(error))
            reason = f"it contains a {named[1]}" if named else f"{type(value).__name__}: {error}"
            raise CheckpointError(
                f"{name!r} in the state dict of the model cannot be saved, since a checkpoint holds tensors and data "
                f"but no code: {reason}. get_extra_state() may return tensors, numbers, texts, and lists and dicts of "
                "them"
            ) from error


def write_weights(weights: Mapping[str, Any], folder: Path, name: str) -> None:
    """Write a state dict into ``folder``; its tensors into the file ``name``."""
    from safetensors.torch import save_file

    tensors, _ = stored(weights)
    kept, ties = without_duplicates(tensors)
    metadata = {"format": "pt", **({TIES: json.dumps(ties)} if ties else {})}
    with system_errors(folder / name):
        save_file(kept, folder / name, metadata=metadata)


def write_rest(weights: Mapping[str, Any], folder: Path) -> None:
    """Write into `OWN_FILE` the weights that the weight files of others in ``folder`` do not hold under any name."""
    from safetensors.torch import save_file

    kept, ties = without_duplicates(stored(weights)[0])
    places: dict[str, str] = {}
    with unless_foreign():
        places = _places(kept, folder)
    rest = {name: tensor for name, tensor in kept.items() if name not in places}
    entries = {TIES: ties, ELSEWHERE: places}
    metadata = {"format": "pt", **{name: json.dumps(entry) for name, entry in entries.items() if entry}}
    with system_errors(folder / OWN_FILE):
        save_file(rest, folder / OWN_FILE, metadata=metadata)


def _places(weights: Mapping[str, Tensor], folder: Path) -> dict[str, str]:
    """Return the weights that the weight files in ``folder`` hold to the bit, each with its name there."""
    alike: dict[Any, list[str]] = {}
    for name, tensor in weights.items():
        alike.setdefault(_look(tensor), []).append(name)
    places: dict[str, str] = {}
    for path in (folder / name for name in weights_in(folder) if name.endswith(".safetensors")):
        for key, value in _tensors_in(path):
            names = [name for name in alike.get(_look(value), ()) if name not in places]
            places |= {name: key for name in names if same_bits(value, weights[name])}
    return places


def _look(tensor: Tensor) -> tuple[Any, ...]:
    """Return what equal tensors share, and few others."""
    first = tensor.detach().reshape(-1)[:16].cpu().contiguous().view(torch.uint8)
    return tensor.dtype, tensor.shape, bytes(first.tolist())


def unless_foreign() -> suppress:
    """Return a context that ends where a file of an export is found to be in another format than its name says."""
    from safetensors import SafetensorError

    return suppress(CheckpointError, SafetensorError, OSError)


def write_extra(weights: Mapping[str, Any], folder: Path) -> None:
    """Write the entries that safetensors cannot hold, if there are any."""
    _, others = stored(weights)
    if others:
        check_data(others)
        torch.save(others, folder / EXTRA_FILE)


def without_duplicates(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return weights without duplicates under other names, which safetensors does not accept, and those names.

    Views of the same memory that are not the same tensor (a transposed weight, slices) are copies.
    """
    seen: dict[Any, str] = {}
    kept: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for name, tensor in weights.items():
        key = _layout(tensor)
        if tensor.numel() and key in seen:
            ties[name] = seen[key]
            continue
        seen[key] = name
        kept[name] = tensor.detach().contiguous()
    storages: set[int] = set()
    for name, tensor in kept.items():
        pointer = tensor.untyped_storage().data_ptr()
        if pointer in storages and tensor.numel():
            kept[name] = tensor.clone()
        storages.add(pointer)
    return kept, ties


# -- reading ----------------------------------------------------------------------------------------------------------


def read_weights(checkpoint: Contents) -> dict[str, Any]:
    """Return all weights of a checkpoint by their plain names; tied weights are the same object.

    Raises:
        CheckpointError: If there are none.
    """
    names = weights_files(checkpoint.path, checkpoint.names("weights"))
    if not names:
        raise BrokenCheckpointError(checkpoint.path, f"holds no weights: {WEIGHTS_FILE} is missing")
    weights: dict[str, Any] = {}
    for name in names:
        weights = _read(checkpoint.path / name, weights)
    return plainly_named(weights)


def _read(path: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of a file, with those of the files before it that it does not replace by their names."""
    if path.name == EXTRA_FILE:
        return {**before, **read_torch(path)}
    if path.suffix != ".safetensors":
        return dict(before)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    places = json.loads(metadata.get(ELSEWHERE, "{}")) if path.name == OWN_FILE else {}
    if lacking := sorted(set(places.values()) - before.keys()):
        raise CheckpointError(f"{path} leaves {first_names(lacking)} to other files, which lack them")
    weights |= _placed(places, before) if places else {name: before[name] for name in before.keys() - weights.keys()}
    return weights | {name: weights[first] for name, first in json.loads(metadata.get(TIES, "{}")).items()}


def _placed(places: Mapping[str, str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights by their own names; those that are only equal, and not tied, are copies."""
    first: dict[str, str] = {}
    for name, key in places.items():
        first.setdefault(key, name)
    return {name: found[key] if first[key] == name else found[key].clone() for name, key in places.items()}


def holds(folder: Path, names: Collection[str], weights: Mapping[str, Any]) -> bool:
    """Return whether the files ``names`` hold exactly these weights, to the bit; tied ones under at least one name."""
    tensors, _ = stored(weights)
    found: set[str] = set()
    for name in names:
        if not name.endswith(".safetensors"):
            continue
        for key, value in _tensors_in(folder / name):
            if key not in tensors or not same_bits(value, tensors[key]):
                return False
            found.add(key)
    return bool(found) and not _missing(tensors, found)


def _missing(tensors: Mapping[str, Tensor], found: set[str]) -> set[str]:
    places = {_layout(tensors[name]) for name in found if tensors[name].numel()}
    return {name for name in tensors.keys() - found if _layout(tensors[name]) not in places}


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return place_of(tensor), tensor.dtype, tensor.shape, tensor.stride()


def _tensors_in(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same type, shape and bytes."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    pair = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*pair)
