"""torch_xla.core.xla_model: collectives between cores, and the device's random number generator."""

import torch
import torch.distributed as dist

import torch_xla

from ..contract import demand, record, state, world_size

REDUCE_SUM = "sum"


def all_reduce(reduce_type, inputs, scale=1.0, groups=None, pin_layout=True):
    demand(reduce_type == REDUCE_SUM, "all_reduce takes one of xm.REDUCE_...")
    if isinstance(inputs, torch.Tensor):
        record("all_reduce", tuple(inputs.shape), inputs.dtype, scale)
        result = inputs.detach().clone()
        _sum(result)
        return result * scale
    demand(all(isinstance(tensor, torch.Tensor) for tensor in inputs), "a list to reduce holds tensors only")
    record("reduce gradients", [(tuple(tensor.shape), tensor.dtype) for tensor in inputs], scale)
    for tensor in inputs:
        _sum(tensor)
        tensor.mul_(scale)
    return inputs


def _sum(tensor):
    if world_size() > 1:
        dist.all_reduce(tensor)


def collective_broadcast(tensors, root_ordinal=0, groups=None, pin_layout=True):
    record("broadcast", [tuple(tensor.shape) for tensor in tensors])
    for tensor in tensors:
        dist.broadcast(tensor.detach(), root_ordinal)


def broadcast_master_param(model):
    collective_broadcast([*model.parameters(), *model.buffers()])
    torch_xla.sync()


def rendezvous(tag, payload=b"", replicas=()):
    demand(isinstance(tag, str) and tag != "", "a rendezvous has a tag")
    demand(isinstance(payload, bytes), "`payload` must be bytes")
    torch_xla.sync()
    record("rendezvous", tag)
    if world_size() == 1:
        return [payload]
    told = [None] * world_size()
    dist.all_gather_object(told, payload)
    return told


def set_rng_state(seed, device=None):
    demand(isinstance(seed, int), "the state of XLA's random numbers is a whole number")
    state.rng = seed


def get_rng_state(device=None):
    return state.rng
