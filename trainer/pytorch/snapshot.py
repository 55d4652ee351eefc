"""Files of a PyTorch checkpoint beside the weights: copies, random numbers, the optimizer's state, reading.

They are torch files that load with ``weights_only=True``, as data without code; `weights` has the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from trackside.callbacks.errors import CheckpointError

from ..checkpointing.random_state import host_random_state, set_host_random_state
from ..checkpointing.saving.hashed_file import hashed

LATE = "late_parameters"
"""Name, in an optimizer's state, of the parameters that were unfrozen during the run: index of the group, and name."""
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


def optimizer_state(optimizer: Any) -> Any:
    """Return the state of an optimizer, and in ``weight_dtypes`` the types of the weights that it updates."""
    state = optimizer.state_dict()
    if isinstance(state, dict) and "param_groups" in state:
        return {**state, WEIGHT_DTYPES: [str(weight.dtype) for weight in _weights_of(optimizer)]}
    return state


def _weights_of(optimizer: Any) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def load_optimizer(optimizer: Any, state: Any) -> None:
    """Load an optimizer's state.

    torch converts the state to the type of the weights. State that had another type than its weight when it was
    written, such as float32 momentum of bfloat16 weights, is given that type again.
    """
    dtypes = state.get(WEIGHT_DTYPES) if isinstance(state, dict) else None
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


def write_torch(content: Any, path: Path) -> None:
    """Write a torch file, hashed while it is written.

    Raises:
        OSError: If the file cannot be written.
    """
    with hashed(path) as file:
        torch.save(content, cast(IO[bytes], file))


def read_torch(path: Path) -> Any:
    """Read a torch file that holds only data.

    Raises:
        CheckpointError: If it cannot be read, or holds code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as data: {error}") from error
