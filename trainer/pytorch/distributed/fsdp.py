"""FSDP2: every rank holds a shard of each parameter, its gradient and its optimizer state.

The step is the same as with DDP; the preparation of the model differs, and every process writes its share of a
checkpoint. Such a checkpoint loads on any number of processes, with or without FSDP.

Source:
    https://pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

from trackside.callbacks.errors import ArgumentError, CheckpointError, did_you_mean
from trackside.trainer.checkpointing.manifest import Contents

from .._torch_util import NULL_CONTEXT
from ..snapshot import SHARDS
from ..weights.files import read_weights
from .shards import DataPlanner, ShardsReader, ShardsWriter
from .strategy import MultiProcess

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FSDP(MultiProcess):
    """One process of several that hold a shard of the model each."""

    is_sharded = True

    def shard(self, model: nn.Module) -> nn.Module:
        """Shard the parameters of ``model`` in place, with the first process's values, before the optimizer exists."""
        if hasattr(model, "set_requires_gradient_sync"):  # trained before
            return model
        config = self._args.fsdp_config or {}
        words = str(self._args.fsdp)
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), 0)
        options: dict[str, Any] = {
            "mesh": init_device_mesh(self._device.type, (self.world_size,)),
            "reshard_after_forward": "full_shard" in words,
            "mp_policy": mixed_precision_policy(config.get("mixed_precision") or {}),
        }
        if "offload" in words:
            options["offload_policy"] = CPUOffloadPolicy(pin_memory=self._device.type == "cuda")
        for module in modules_to_shard(model, config):
            fully_shard(module, **options)
        fully_shard(model, **options)
        return model

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model; its own hooks replace the wrapper of DDP."""
        return model

    def grad_sync(self, model: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
        """Exchange gradients only after the last micro-batch of an update."""
        model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        return NULL_CONTEXT

    def full_tensor(self, tensor: Any) -> Any:
        """Return a sharded tensor as a full one."""
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    def full_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return all weights on the host of the first process; an empty dict on the others."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(model, options=options)
        return weights


def modules_to_shard(model: nn.Module, config: Mapping[str, Any]) -> list[nn.Module]:
    """Return the parts of a model that are gathered separately, inner parts first.

    These are the modules of the classes that ``fsdp_config`` names in ``transformer_layer_cls_to_wrap``, or those with
    at least ``min_num_params`` parameters outside chosen inner modules; without either, the classes that the model
    declares as indivisible (``_no_split_modules`` of transformers), or else the members of every nn.ModuleList.

    Raises:
        ArgumentError: If no module is of a named class; the message suggests the nearest name.
    """
    inner = [module for module in model.modules() if module is not model]
    least = int(config.get("min_num_params", 0))
    wanted = config.get("transformer_layer_cls_to_wrap") or []
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if least:
        return _by_size(model, least)
    if names:
        known = {type(module).__name__ for module in inner}
        for name in names:
            if name not in known:
                field = "fsdp_config['transformer_layer_cls_to_wrap']"
                raise ArgumentError(field, name, f"a class among the model's modules.{did_you_mean(name, known)}")
    names = names or list(getattr(model, "_no_split_modules", None) or ())
    if names:
        return [module for module in reversed(inner) if type(module).__name__ in names]
    return [layer for module in reversed(inner) if isinstance(module, nn.ModuleList) for layer in module]


def _by_size(model: nn.Module, least: int) -> list[nn.Module]:
    """Return modules that hold ``least`` parameters beyond those of chosen modules inside them, inner ones first."""
    chosen: list[nn.Module] = []

    def visit(module: nn.Module) -> int:
        left = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        left += sum(visit(child) for child in module.children())
        if left >= least and module is not model and not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            chosen.append(module)
            return 0
        return left

    visit(model)
    return chosen


def mixed_precision_policy(config: Mapping[str, str]) -> MixedPrecisionPolicy:
    """Return FSDP2's policy from ``{"param_dtype": "bf16", "reduce_dtype": "fp32", "output_dtype": "fp32"}``."""
    dtypes: dict[str, Any] = {name: DTYPES[value] for name, value in config.items()}
    return MixedPrecisionPolicy(**dtypes)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def write_shards(folder: Path, model: nn.Module, optimizer: Any) -> None:
    """Write this process's share of weights and optimizer state; all processes must call it."""
    writer = ShardsWriter(folder / SHARDS)
    dcp.save(_state_of(model, optimizer), storage_writer=writer)  # type: ignore[attr-defined]


def load_shards(checkpoint: Contents, model: nn.Module, optimizer: Any) -> list[str]:
    """Load weights, and the optimizer's state if there is an ``optimizer``, on any number of processes.

    Returns:
        The names of the parameters whose state begins anew, as the checkpoint has none for this kind of optimizer.

    Raises:
        CheckpointError: If the checkpoint does not hold the weights.
    """
    state, reader = _state_of(model, optimizer), ShardsReader(checkpoint)
    fresh, options = ({}, []) if optimizer is None else _take_unknown(state["optimizer"], reader.names)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            alone = not dist.is_initialized()
            dcp.load(state, storage_reader=reader, planner=DataPlanner(), no_dist=alone)  # type: ignore[attr-defined]
    except (Exception, CheckpointException) as error:  # the latter is a BaseException, with a traceback in its text
        first = next(iter(getattr(error, "failures", {}).values()), (error,))[0]
        raise CheckpointError(f"the shares in {reader.checkpoint_id} do not fit the model: {first}") from error
    if optimizer is None:
        set_model_state_dict(model, state["model"])
        return []
    state["optimizer"]["state"] |= fresh
    for group, values in zip(state["optimizer"]["param_groups"], options, strict=True):
        group |= values
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    for name, parameter in model.named_parameters():
        if name in fresh:
            optimizer.state.pop(parameter)
    return list(fresh)


def _take_unknown(state: dict[str, Any], known: Collection[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Take what a checkpoint lacks out of an optimizer's state: another kind of optimizer wrote it.

    Returns:
        The state of each parameter of which it lacks a part, and the options that it lacks of each group.
    """
    names = {".".join(name.split(".")[:-depth]) if depth else name for name in known for depth in (0, 1)}
    states, groups = state["state"], state["param_groups"]
    fresh = [name for name in states if any(f"optimizer.state.{name}.{key}" not in names for key in states[name])]
    missing = [
        [key for key in group if f"optimizer.param_groups.{index}.{key}" not in names]
        for index, group in enumerate(groups)
    ]
    options = [{key: group.pop(key) for key in keys} for group, keys in zip(groups, missing, strict=True)]
    return {name: states.pop(name) for name in fresh}, options


def load_whole(checkpoint: Contents, model: nn.Module, optimizer: Any) -> None:
    """Give every process its share of the weights of a checkpoint that was written without FSDP.

    Raises:
        CheckpointError: If an optimizer's state is requested too, which such a checkpoint does not hold by name.
    """
    if optimizer is not None:
        raise CheckpointError(
            f"{checkpoint.path} was written without fsdp; resume without it, or load the weights and start afresh with "
            "it"
        )
    weights: dict[str, Any] = dict(read_weights(checkpoint))
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def _state_of(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    if optimizer is None:
        return {"model": get_model_state_dict(model)}
    weights, state = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": state}
