"""GaLore and APOLLO: optimizers that project the gradients of some linear layers to a low rank.

Their projectors are objects in the optimizer's state; in a checkpoint they are plain data.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from trackside.callbacks.errors import ArgumentError, CheckpointError

from .packaged import PACKAGED

PROJECTOR = "projector"
"""Name of the projector in the state of a parameter."""

KIND, KINDS = "kind", ("GaLoreProjector", "GradientProjector")
"""Entry of a projector's plain data for the name of its class, and the names that exist."""

OF_SPACE = ("rank", "proj_type")
"""Options that decide about the space to which gradients are projected."""

OF_STEP = ("update_proj_gap", "scale")
"""The other options of a projector."""


def is_low_rank(optimizer_cls: Any, args: Any) -> bool:
    """Return whether ``optimizer_cls`` is the class that ``args.optim`` names, and projects gradients."""
    found = PACKAGED.get(str(args.optim))
    return found is not None and bool(found.of_targets) and str(optimizer_cls.__module__).startswith(found.module)


def with_targets(groups: list[dict[str, Any]], model: nn.Module, args: Any) -> list[dict[str, Any]]:
    """Return the groups without the weights of ``args.optim_target_modules``, and groups of these with the options.

    Raises:
        ArgumentError: If no linear layer has such a name.
    """
    targets = {id(weight) for weight in target_weights(model, args.optim_target_modules)}
    defaults = PACKAGED[str(args.optim)].of_targets
    options = {**defaults, **{name: value for name, value in (args.optim_args or {}).items() if name in defaults}}
    rest = [{**group, "params": [each for each in group["params"] if id(each) not in targets]} for group in groups]
    chosen = [
        {**group, "params": [each for each in group["params"] if id(each) in targets], **options} for group in groups
    ]
    return [*rest, *(group for group in chosen if group["params"])]


def target_weights(model: nn.Module, targets: str | list[str]) -> list[Tensor]:
    """Return the trainable weights of the linear layers that ``targets`` names.

    Args:
        targets: ``"all-linear"``, a pattern for whole names, or a list of parts of names and such patterns. Other
            layers whose name is in the list cause a warning.

    Raises:
        ArgumentError: If no linear layer has such a name.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = [module.weight for name, module in linear.items() if _is_target(name, targets)]
    weights = [weight for weight in found if weight.requires_grad]
    if not weights:
        names = ", ".join(linear) or "none"
        raise ArgumentError("optim_target_modules", targets, f"names of trainable linear layers, which are: {names}")
    others = [name for name, _ in model.named_modules() if name not in linear and name in targets]
    if isinstance(targets, list) and others:
        is_not = "is not a linear layer itself" if len(others) == 1 else "are not linear layers themselves"
        warnings.warn(f"optim_target_modules: {', '.join(others)} {is_not}", stacklevel=2)
    return weights


def _is_target(name: str, targets: str | list[str]) -> bool:
    if isinstance(targets, str):
        return targets.replace("_", "-") == "all-linear" or re.fullmatch(targets, name) is not None
    return any(target in name or re.fullmatch(target, name) for target in targets)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def with_plain_projectors(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer, whose state has plain data in place of projectors from now on."""
    if isinstance(optimizer, Optimizer) and any("rank" in group for group in optimizer.param_groups):
        optimizer.register_state_dict_post_hook(_to_plain)
        optimizer.register_load_state_dict_pre_hook(_from_plain)
        optimizer.register_load_state_dict_post_hook(_adopt_at_next_step)
    return optimizer


def _to_plain(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state": {number: _with_plain(entry) for number, entry in state["state"].items()}}


def _with_plain(entry: Mapping[str, Any]) -> dict[str, Any]:
    projector = entry.get(PROJECTOR)
    if projector is None:
        return dict(entry)
    return {**entry, PROJECTOR: {KIND: type(projector).__name__, **vars(projector)}}


def _from_plain(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Make the projectors before torch loads the state, since it converts text among the values of a dict."""
    return {**state, "state": {number: _with_projector(optimizer, entry) for number, entry in state["state"].items()}}


def _with_projector(optimizer: Optimizer, entry: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(entry.get(PROJECTOR), Mapping):
        return dict(entry)
    values = dict(entry[PROJECTOR])
    projector = _projector(optimizer, values.pop(KIND, ""))
    vars(projector).update(values)
    return {**entry, PROJECTOR: projector}


def _projector(optimizer: Optimizer, kind: str) -> Any:
    """Return an empty projector of the class ``kind``, one of those that the optimizer uses."""
    known = vars(sys.modules[type(optimizer).__module__])
    if kind not in KINDS or kind not in known:
        raise CheckpointError(f"the optimizer's state has a projector of the class {kind}, not {' or '.join(KINDS)}")
    return object.__new__(known[kind])


def _adopt_at_next_step(optimizer: Optimizer) -> None:
    def adopt(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        handle.remove()
        _adopt_options(optimizer)

    handle = optimizer.register_step_pre_hook(adopt)


def _adopt_options(optimizer: Optimizer) -> None:
    """Let projectors that were loaded have the device of their weight and the options of their group.

    A resumed run may give these options anew, after the state is loaded.
    A projection to another space begins without the moments of the old one.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if "rank" in group else ():
            state = optimizer.state.get(parameter) or {}
            projector = state.get(PROJECTOR)
            if projector is None:
                continue
            kind = "GradientProjector" if group.get("proj") == "random" else "GaLoreProjector"
            if type(projector).__name__ != kind or any(getattr(projector, name) != group[name] for name in OF_SPACE):
                for name in [name for name in state if name not in ("step", "seed")]:
                    del state[name]
                continue
            matrix = _moved(projector.ortho_matrix, parameter.device)
            vars(projector).update({name: group[name] for name in OF_STEP}, ortho_matrix=matrix)


def _moved(matrix: Any, device: Any) -> Any:
    """Return the matrix, or the pair of them, on the device of the weight."""
    if isinstance(matrix, (list, tuple)):
        return [_moved(part, device) for part in matrix]
    return None if matrix is None else matrix.to(device)
