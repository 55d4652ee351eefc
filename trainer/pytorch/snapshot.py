"""Files of a PyTorch checkpoint beside the weights: copies, random numbers, the optimizer's state, reading.

They are torch files that load with ``weights_only=True``, as data without code; `weights` has the weights.
"""

from __future__ import annotations

import inspect
import pickle
from collections import ChainMap, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trackside.callbacks._util.exact_data import TAG, Exact, Tell, made_again
from trackside.callbacks._util.plain_data import DEPTH_LIMIT, SCALARS, plain
from trackside.callbacks.errors import CheckpointError, NotPlainError

from ..checkpointing.random_state import generators_lent, host_random_state, set_host_random_state
from ..checkpointing.saving.hashed_file import hashed
from .host_copy import place_of

INNER = "of inner optimizer "
"""Begin of the name, in the state of a parameter, of the state that an inner optimizer has of it."""
LATE = "late_parameters"
"""Name, in an optimizer's state, of the parameters that were unfrozen during the run: index of the group, and name."""
ADDED = "added_groups"
"""Name, there, of the groups that were added during the run: the names of the parameters of each."""
WEIGHT_DTYPES = "weight_dtypes"
"""Entry of an optimizer's file beside torch's own: the types of the weights, in the order of the groups."""
SHARDS = "shards"
"""Folder in a checkpoint to which every process writes its share of weights and optimizer state; see `fsdp`."""


def random_state() -> dict[str, Any]:
    """Return the states of the random number generators of Python, numpy and torch."""
    with generators_lent():
        state = {**host_random_state(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the states that `random_state` returned."""
    with generators_lent():
        set_host_random_state(state)
        torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def optimizer_state(optimizer: Any) -> Any:
    """Return the state of an optimizer, and in ``weight_dtypes`` the types of the weights that it updates."""
    state = optimizer.state_dict()
    if isinstance(state, dict) and "param_groups" in state:
        dtypes = [str(weight.dtype) for weight in _weights_of(optimizer)]
        return {**with_state_of_inner(optimizer, state), WEIGHT_DTYPES: dtypes}
    return state


def _weights_of(optimizer: Any) -> list[Tensor]:
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def load_optimizer(optimizer: Any, state: Any) -> None:
    """Load an optimizer's state.

    torch converts the state to the type of the weights. State that had another type than its weight when it was
    written, such as float32 momentum of bfloat16 weights, is given that type again.
    """
    dtypes = state.get(WEIGHT_DTYPES) if isinstance(state, dict) else None
    with inner_loaded(optimizer):
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


# -- an optimizer around others ---------------------------------------------------------------------------------------


def with_state_of_inner(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return what ``state_dict()`` returned, with the state of the optimizers around which an optimizer is."""
    inner = inner_optimizers(optimizer)
    if not inner:
        return state
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    states = dict(state["state"])
    for number, weight in zip(numbers, _weights_of(optimizer), strict=True):
        found = {f"{INNER}{place}": each.state[weight] for place, each in enumerate(inner) if weight in each.state}
        if found:
            states[number] = {**states.get(number, {}), **found}
    return {**state, "state": states}


@contextmanager
def inner_loaded(optimizer: Any) -> Iterator[None]:
    """Return a context in which an optimizer loads what `with_state_of_inner` returned.

    torch makes new groups; those that are shared with an inner optimizer stay the same objects, so that both follow
    the schedule.
    """
    inner, groups = inner_optimizers(optimizer), optimizer.param_groups
    yield
    if inner:
        found = optimizer.param_groups
        kept = {id(loaded): group for group, loaded in zip(groups, found, strict=True)}
        for loaded, group in zip(found, groups, strict=True):
            values = dict(loaded)
            group.clear()
            group.update(values)
        optimizer.param_groups = groups
        for each in inner:  # a load_state_dict of the optimizer may have handed the new ones on
            shared = [kept.get(id(group), group) for group in each.param_groups]
            each.param_groups = groups if each.param_groups is found else shared
    for weight in _weights_of(optimizer) if inner else ():
        states = optimizer.state.get(weight, {})
        for place, each in enumerate(inner):
            if (name := f"{INNER}{place}") in states:
                each.state[weight] = states.pop(name)


def inner_optimizers(optimizer: Any) -> list[Optimizer]:
    """Return the optimizers that an optimizer has as attributes and whose state its ``state_dict()`` leaves out.

    That is so where it has torch's own ``state_dict()`` and another ``state`` than they.
    """
    found: list[Optimizer] = []
    seen = [optimizer]
    for outer in seen:
        if getattr(type(outer), "state_dict", None) is not Optimizer.state_dict:
            continue
        known = outer.state.maps if isinstance(outer.state, ChainMap) else [outer.state]
        attributes = [value for name, value in vars(outer).items() if name not in ("state", "param_groups")]
        for inner in _optimizers_in(attributes):
            if not any(inner is each for each in seen):
                seen.append(inner)
                found += [] if any(inner.state is each for each in known) else [inner]
    return found


def _optimizers_in(values: Any) -> Iterator[Optimizer]:
    for value in values:
        if isinstance(value, Optimizer):
            yield value
        elif isinstance(value, (Mapping, list, tuple)):
            yield from _optimizers_in(value.values() if isinstance(value, Mapping) else value)


# -- data -------------------------------------------------------------------------------------------------------------


def as_data(state: Any, name: str, tell: Tell) -> Any:
    """Return a state as the torch file ``name`` keeps it.

    Tensors and Python's own types stay as they are, others become `exact` data, which `read_torch` turns back.

    Raises:
        NotPlainError: If a value cannot be kept, or is a tensor without values; the message has its place.
    """
    return _TorchData(f"the state in {name}", tell).convert(state, ())


class _TorchData(Exact):
    """One call of `as_data`."""

    def convert(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if isinstance(value, Tensor):
            if value.is_meta:
                raise NotPlainError(
                    self.what, self.place(path), "is a tensor on the device 'meta', which has no values"
                )
            return value
        if kind in KEPT:
            return value
        if len(path) > DEPTH_LIMIT:
            return super().convert(value, path)
        if kind in (dict, OrderedDict) and TAG not in value:
            return kind(self._dict(value, path))
        if kind in (list, tuple, set):
            return kind(self.convert(item, (*path, place)) for place, item in enumerate(value))
        return super().convert(value, path)

    def _dict(self, value: Mapping[Any, Any], path: tuple[Any, ...]) -> Any:
        return {self._key(key, path): self.convert(item, (*path, key)) for key, item in value.items()}

    def _key(self, key: Any, path: tuple[Any, ...]) -> Any:
        return key if type(key) in KEPT or type(key) is tuple else plain(key, f"a key of {self.what}{self.place(path)}")


KEPT = {*SCALARS, bytes, bytearray, complex, torch.dtype, torch.device, torch.Size}
"""Types that torch reads with ``weights_only=True``, and that are kept as they are."""


def _from_data(state: Any) -> Any:
    """Return the state that `as_data` was given."""
    kind = type(state)
    if isinstance(state, dict):
        return made_again(state, _from_data) if TAG in state else kind({k: _from_data(v) for k, v in state.items()})
    return kind(map(_from_data, state)) if kind in (list, tuple, set) else state


def outline(state: Any) -> Any:
    """Return a state with empty tensors of the same types."""
    if type(state) in (Tensor, nn.Parameter):
        return torch.empty(0, dtype=state.dtype)
    if isinstance(state, dict):
        return {key: outline(value) for key, value in state.items()}
    return type(state)(map(outline, state)) if type(state) in (list, tuple) else state


def sizes_of(state: Any) -> list[int]:
    """Return the bytes of each tensor in a state; what shares memory counts once."""
    found: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            for part in (value,) if value.layout is torch.strided else _parts_of_sparse(value):
                found[place_of(part)] = max(part.nbytes, found.get(place_of(part), 0))
        elif isinstance(value, (Mapping, list, tuple)):
            for item in value.values() if isinstance(value, Mapping) else value:
                visit(item)

    visit(state)
    return list(found.values())


def _parts_of_sparse(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the dense tensors of a sparse one."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def optimizer_sizes(optimizer: Any) -> list[int]:
    """Return the bytes of each tensor of an optimizer's state; before its first step, only if its class is torch's."""
    state = getattr(optimizer, "state", {})  # an optimizer of a class of the user's may have none
    if state or not type(optimizer).__module__.startswith("torch.optim."):
        return sizes_of(dict(state))
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.zeros(2)
    try:
        known = inspect.signature(type(optimizer)).parameters
        trial = type(optimizer)(
            [weight], **{name: optimizer.defaults[name] for name in known if name in optimizer.defaults}
        )
        trial.step()
    except Exception:  # with options that need another device, or arguments of the step
        return []
    moments = sum(isinstance(value, Tensor) and value.shape == weight.shape for value in trial.state[weight].values())
    return moments * [weight.nbytes for weight in _weights_of(optimizer)]


# -- files ------------------------------------------------------------------------------------------------------------


def write_torch(content: Any, path: Path) -> None:
    """Write a torch file, hashed while it is written.

    Raises:
        CheckpointError: If it holds an object that `read_torch` would not read.
        OSError: If the file cannot be written.
    """
    try:
        with hashed(path) as file:
            torch.save(content, cast(IO[bytes], file))
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (pickle.PickleError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name} holds what cannot be kept as data: {error}") from error
    if unsafe:
        raise CheckpointError(f"{path.name} holds objects that cannot be read as data: {', '.join(sorted(unsafe))}")


def read_torch(path: Path) -> Any:
    """Read a torch file that holds only data.

    Raises:
        CheckpointError: If it cannot be read, or holds code.
    """
    try:
        return _from_data(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as data: {error}") from error
