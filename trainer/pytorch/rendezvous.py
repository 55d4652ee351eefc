"""How the processes of a run find each other: the store that they share, and the process group made from it."""

from __future__ import annotations

import os
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed has them, untyped

from ..launcher import find_meeting_point, restart_count

_groups_made = count()
_watches_made = count()


def join(args: Any, device: torch.device) -> Store:
    """Join the process group, unless this process is in one, and return the store that all processes share.

    The names in the store carry the attempt of the launcher and the number of the group. torchrun keeps its store when
    it starts workers again, and without the prefix the new ones would read the addresses of the dead.

    Args:
        args: Read for ddp_backend, ddp_timeout and the place of this process.
        device: The device of this process; it decides between nccl and gloo.

    Raises:
        ArgumentError: If nobody said where the processes meet.
    """
    if dist.is_initialized():
        store: Store = dist.distributed_c10d._get_default_store()
    else:
        timeout = timedelta(seconds=args.ddp_timeout)
        prefix = f"trackside/attempt-{restart_count()}/group-{next(_groups_made)}"
        store = PrefixStore(prefix, _meet(args, timeout))
        dist.init_process_group(
            backend_for(args.ddp_backend, device),
            store=store,
            rank=args.process_index,
            world_size=args.world_size,
            timeout=timeout,
        )
    return PrefixStore(f"watch-{next(_watches_made)}", _own_connection(store))


def backend_for(wanted: str | None, device: torch.device) -> str:
    """Return the backend of torch.distributed: what was asked for, else nccl for CUDA and gloo for the rest."""
    return wanted or ("nccl" if device.type == "cuda" else "gloo")


_stores: dict[tuple[str, int], Store] = {}


def _meet(args: Any, timeout: timedelta) -> Store:
    """Return the store at the meeting point; torchrun's agent serves it, without torchrun the first process does."""
    address, port = find_meeting_point(args.place)
    if (address, port) not in _stores:
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        _stores[address, port] = TCPStore(
            address, port, args.world_size, args.process_index == 0 and not served, timeout=timeout
        )
    return _stores[address, port]


def _own_connection(store: Store) -> Store:
    """Return the same store by a connection of its own, so that a thread never waits behind the training."""
    try:
        clone: Store = store.clone()  # type: ignore[attr-defined]
        return clone
    except (RuntimeError, AttributeError, NotImplementedError):
        return store
