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
from ._torch_util import place_of

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Index of weights that transformers split into several files."""
KERNELS = ("fused", "foreach")
"""Options of torch's optimizers that select the kernel of a step, not its result."""
WEIGHT_DTYPES = "weight_dtypes"
"""Entry of an optimizer's file beside torch's own: the types of the weights, in the order of the groups."""
SHARDS = "shards"
"""Folder in a checkpoint to which every process writes its share of weights and optimizer state; see `fsdp`."""


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


def optimizer_state(optimizer: Any) -> Any:
    """Return the state of an optimizer, and in ``weight_dtypes`` the types of the weights that it updates."""
    state = optimizer.state_dict()
    if isinstance(state, dict) and "param_groups" in state:
        return {**state, WEIGHT_DTYPES: [str(weight.dtype) for weight in _weights_of(optimizer)]}
    return state


def _weights_of(optimizer: Any) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def load_optimizer(optimizer: Any, state: Any) -> None:
    """Load an optimizer's state, except the kernel options, since kernels depend on the device.

    torch converts the state to the type of the weights. State that had another type than its weight when it was
    written, such as float32 momentum of bfloat16 weights, is given that type again.
    """
    dtypes = state.get(WEIGHT_DTYPES) if isinstance(state, dict) else None
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if groups is not None:
        own = [{name: group[name] for name in KERNELS if name in group} for group in optimizer.param_groups]
        own += [{}] * (len(groups) - len(own))
        state = {**state, "param_groups": [{**group, **kept} for group, kept in zip(groups, own, strict=False)]}
    optimizer.load_state_dict(state)
    if dtypes is not None:
        _restore_dtypes(optimizer, state, dtypes)


def _restore_dtypes(optimizer: Any, saved: dict[str, Any], weight_dtypes: list[str]) -> None:
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    for index, weight, dtype in zip(indices, _weights_of(optimizer), weight_dtypes, strict=False):
        if index in saved["state"] and weight in optimizer.state:
            optimizer.state[weight] = _as_saved(optimizer.state[weight], saved["state"][index], dtype)


def _as_saved(loaded: Any, saved: Any, weight_dtype: str) -> Any:
    """Return nested ``loaded``, but with tensors of ``saved`` whose type torch changed though it was its own."""
    if isinstance(loaded, Tensor) and isinstance(saved, Tensor):
        is_changed = loaded.dtype != saved.dtype and str(saved.dtype) != weight_dtype
        return saved.to(loaded.device, copy=True) if is_changed else loaded
    if isinstance(loaded, dict):
        return {key: _as_saved(part, saved.get(key), weight_dtype) for key, part in loaded.items()}
    if isinstance(loaded, (list, tuple)):
        return type(loaded)(_as_saved(*pair, weight_dtype) for pair in zip(loaded, saved, strict=True))
    return loaded


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
