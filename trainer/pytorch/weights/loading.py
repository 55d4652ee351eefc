"""Loading weights into a model, whose names, shapes and shared memory they must fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trackside.callbacks._util.display import first_names
from trackside.callbacks.errors import CheckpointError, did_you_mean
from trackside.trainer.checkpointing.manifest import Contents

from ..host_copy import place_of
from .files import read_weights
from .names import plain_name


def load_weights(model: nn.Module, checkpoint: Contents) -> None:
    """Load the weights of a checkpoint into ``model``.

    Raises:
        CheckpointError: If there are no weights, or they do not fit; the message names missing and unknown weights.
    """
    weights = read_weights(checkpoint)
    names = {plain_name(name): name for name in model.state_dict()}
    own = {plain_name(name): value for name, value in model.state_dict(keep_vars=True).items()}
    _complete(weights, own)
    missing = sorted(name for name in own.keys() - weights.keys() if not nn.parameter.is_lazy(own[name]))
    extra = sorted(weights.keys() - own.keys())
    wrong = sorted(name for name in own.keys() & weights.keys() if not _fits(weights[name], own[name]))
    if missing or extra or wrong:
        hint = did_you_mean(missing[0], extra) if missing else ""
        raise CheckpointError(
            f"the weights in {checkpoint.path} do not fit the model: missing {first_names(missing) or 'none'}; unknown "
            f"{first_names(extra) or 'none'}; of another shape {first_names(wrong) or 'none'}.{hint}"
        )
    _fill(model, {names[name]: value for name, value in weights.items()}, {names[n]: own[n] for n in own})


def _fits(value: Any, own: Any) -> bool:
    if nn.parameter.is_lazy(own) or not isinstance(own, Tensor):
        return True
    return isinstance(value, Tensor) and value.shape == own.shape


def _complete(weights: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Add the weights that the file has under the name of another one which is the same memory in the model.

    A tied name that the model does not have is dropped, if the model has the weight under another name.
    """
    used = {id(value) for name, value in weights.items() if name in own}
    for name in [name for name, value in weights.items() if name not in own and id(value) in used]:
        del weights[name]
    known = {_memory(tensor): name for name, tensor in own.items() if name in weights and _has_memory(tensor)}
    for name, tensor in own.items():
        twin = known.get(_memory(tensor)) if name not in weights and _has_memory(tensor) else None
        if twin is not None:
            weights[name] = _seen_as(weights[twin], own[twin], tensor)


def _has_memory(value: Any) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return place_of(tensor), tensor.numel(), tensor.dtype


def _seen_as(value: Tensor, own: Tensor, view: Tensor) -> Tensor:
    """Return ``value``, which belongs to ``own``, as its memory reads through ``view``, which may be transposed."""
    if own.shape == view.shape and own.stride() == view.stride():
        return value
    laid_out = torch.empty_strided(own.shape, own.stride(), dtype=value.dtype).copy_(value)
    return laid_out.as_strided(view.shape, view.stride())


def _fill(model: nn.Module, weights: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Load into a model by its own names; tensors that repeat their elements (expanded ones) are filled apart."""
    expanded = [name for name, tensor in own.items() if _has_memory(tensor) and _repeats(tensor)]
    given = {name: value for name, value in weights.items() if name not in expanded}
    options = {} if given.keys() == own.keys() else {"strict": False}  # the names were compared
    model.load_state_dict(given, **options)
    for name in expanded:
        inner = own[name].detach()
        _once(inner, inner).copy_(_once(weights[name], inner))


def _repeats(tensor: Tensor) -> bool:
    return any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _once(tensor: Tensor, like: Tensor) -> Tensor:
    """Return the part of ``tensor`` that holds every element of ``like``, an expanded tensor, once."""
    for dim, (size, stride) in enumerate(zip(like.shape, like.stride(), strict=True)):
        tensor = tensor.narrow(dim, 0, 1) if stride == 0 and size > 1 else tensor
    return tensor
