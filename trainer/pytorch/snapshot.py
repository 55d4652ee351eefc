"""Files of a PyTorch checkpoint: formats, writing and reading.

Weights are safetensors (for transformers models in the form of ``save_pretrained``); optimizer, schedule, loss scale
and random numbers are torch files that load with ``weights_only=True``, as data without code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks.errors import CheckpointError, did_you_mean

from ..checkpointing.manifest import BrokenCheckpointError, Contents
from ..checkpointing.random_state import host_random_state, set_host_random_state

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Index of weights that transformers split into several files."""
SHARDS = "shards"
"""Folder in a checkpoint to which every process writes its share of weights and optimizer state; see `fsdp`."""


def copied(value: Any, memo: dict[int, Tensor] | None = None) -> Any:
    """Return nested values with every tensor copied to the host; tensors that share memory share their copy."""
    memo = {} if memo is None else memo
    if isinstance(value, Tensor):
        key = place_of(value)
        known = memo.get(key)
        if known is None or known.shape != value.shape or known.dtype != value.dtype:
            known = memo[key] = value.detach().to("cpu", copy=True)
        return known
    if isinstance(value, dict):
        return {key: copied(part, memo) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(part, memo) for part in value)
    return value


def place_of(tensor: Tensor) -> int:
    """Return a key shared by tensors that share memory: the address, or without one the object id."""
    return tensor.data_ptr() or id(tensor)


def random_state() -> dict[str, Any]:
    """Return the states of the random number generators of Python, numpy and torch."""
    state = {**host_random_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states that `random_state` returned."""
    set_host_random_state(state)
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def save_weights(model: nn.Module, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write the weights of ``model``, or ``weights`` instead, into ``folder``."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder, state_dict=weights)  # type: ignore[operator]
        return
    from safetensors.torch import save_file

    save_file(_without_duplicates(weights or model.state_dict()), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _without_duplicates(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without duplicates under other names (tied weights), which safetensors does not accept."""
    seen: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and key in seen:
            continue
        seen[key] = name
        kept[name] = tensor.detach().contiguous()
    storages: dict[int, str] = {}
    for name, tensor in kept.items():  # views of one storage that are not the same tensor are written as copies
        pointer = tensor.untyped_storage().data_ptr()
        if pointer in storages and tensor.numel():
            kept[name] = tensor.clone()
        storages.setdefault(pointer, name)
    return kept


def load_weights(model: nn.Module, checkpoint: Contents) -> None:
    """Load the weights of a checkpoint into ``model``.

    Raises:
        CheckpointError: If there are no weights, or they do not fit; the message names missing and unknown weights.
    """
    weights = read_weights(checkpoint)
    own = model.state_dict(keep_vars=True)
    known = {(place_of(tensor), tensor.shape): name for name, tensor in own.items() if name in weights}
    for name, tensor in own.items():  # tied weights are written once
        twin = known.get((place_of(tensor), tensor.shape))
        if name not in weights and twin is not None:
            weights[name] = weights[twin]
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape]
    if missing or extra or wrong:
        hint = did_you_mean(missing[0], extra) if missing else ""
        raise CheckpointError(
            f"the weights in {checkpoint.path} do not fit the model: missing {_some(missing)}; unknown {_some(extra)}; "
            f"of another shape {_some(sorted(wrong))}.{hint}"
        )
    model.load_state_dict(weights)


def weights_files(folder: Path, names: Collection[str]) -> list[str]:
    """Return the weight files among ``names`` in ``folder``; empty if there are none.

    Raises:
        CheckpointError: If a file named in an index is missing, or the index cannot be read.
    """
    if WEIGHTS_FILE in names:
        return [WEIGHTS_FILE]
    if INDEX_FILE not in names:
        return []
    try:
        parts = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX_FILE} cannot be read: {error!r}") from error
    if missing := parts.difference(names):
        raise CheckpointError(f"{folder} lacks {_some(sorted(map(str, missing)))}, which {INDEX_FILE} names")
    return [*sorted(parts), INDEX_FILE]


def weights_in(folder: Path) -> list[str]:
    """Return the names of the weight files in ``folder``; empty if there are none."""
    return weights_files(folder, os.listdir(folder))


def read_weights(checkpoint: Contents) -> dict[str, Tensor]:
    """Return all weights of a checkpoint.

    Raises:
        CheckpointError: If there are none.
    """
    from safetensors.torch import load_file

    names = weights_files(checkpoint.path, checkpoint.names("weights"))
    if not names:
        raise BrokenCheckpointError(checkpoint.path, f"holds no weights: there is no {WEIGHTS_FILE}")
    weights: dict[str, Tensor] = {}
    for name in names:
        weights.update(load_file(checkpoint.path / name) if name != INDEX_FILE else {})
    return weights


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"


def read_torch(path: Path) -> Any:
    """Read a torch file that holds only data.

    Raises:
        CheckpointError: If it cannot be read, or holds code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as data: {error}") from error
