"""How the processes of a run find each other: the store that they share, and the process group made from it."""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed has them, untyped

from trackside.callbacks.errors import ArgumentError, RankError, did_you_mean
from trackside.trainer.distributed.launcher import rendezvous_endpoint

PERIOD_S = 0.01
"""So often a process looks whether the first one has called."""

_watches_made = count()


def join(args: Any, device: torch.device) -> Store:
    """Join the process group, unless this process is in one, and return the store that all processes share.

    The names in the store begin with a word that the processes have just agreed on; see `meet`. torchrun keeps its
    store when it starts workers again, and without that the new ones would read the addresses of the dead.

    Args:
        args: Read for ddp_backend, ddp_timeout and the place of this process.
        device: The device of this process; it decides between nccl and gloo.

    Raises:
        ArgumentError: If nobody said where the processes meet, or torch has no such backend.
        RankError: If processes do not come in time.
    """
    if dist.is_initialized():
        store: Store = dist.distributed_c10d._get_default_store()
    else:
        timeout = timedelta(seconds=args.ddp_timeout)
        shared = _shared_store(args, timeout)
        word = meet(PrefixStore("trackside", shared), args.process_index, args.world_size, args.ddp_timeout)
        store = PrefixStore(f"trackside/{word}", shared)
        dist.init_process_group(
            backend_for(args.ddp_backend, device),
            store=store,
            rank=args.process_index,
            world_size=args.world_size,
            timeout=timeout,
        )
    return PrefixStore(f"watch-{next(_watches_made)}", _own_connection(store))


def backend_for(wanted: str | None, device: torch.device) -> str:
    """Return the backend of torch.distributed: what was asked for, else nccl for CUDA and gloo for the rest.

    Raises:
        ArgumentError: If torch was built without what was asked for.
    """
    if wanted is None:
        return "nccl" if device.type == "cuda" else "gloo"
    there = [name for name in dist.Backend.backend_list if name != "undefined" and dist.is_backend_available(name)]
    for name in (part.split(":")[-1].lower() for part in wanted.split(",")):  # also "cpu:gloo,cuda:nccl"
        if name not in there:
            allowed = f"what this build of torch has: {', '.join(there)}.{did_you_mean(name, there)}"
            raise ArgumentError("ddp_backend", wanted, allowed)
    return wanted


def meet(store: Store, rank: int, world_size: int, timeout_s: float) -> str:
    """Return a word that all processes which are here now have, and that none had before.

    The first process calls out a new word, each other answers it with a number of its own, and the first repeats all
    numbers: who hears its own was heard in this meeting, and not a dead one of its rank in an earlier attempt. How
    often torchrun has started processes again would not do as a word, since machines that joined later count anew.

    Raises:
        RankError: If somebody does not come in time; the message has the ranks.
    """
    if rank == 0:
        return _call(store, world_size, timeout_s)
    own, answered, deadline = uuid.uuid4().hex, "", time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        word = store.get("call").decode() if store.check(["call"]) else ""
        if word != answered:
            store.set(f"{word}/here/{rank}", own)
            answered = word
        if word and store.check([f"{word}/all"]) and json.loads(store.get(f"{word}/all")).get(str(rank)) == own:
            return word
        time.sleep(PERIOD_S)
    raise RankError(f"rank {rank} waited {timeout_s:g} s for rank 0, which did not call or did not hear it")


def _call(store: Store, world_size: int, timeout_s: float) -> str:
    word, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    store.set("call", word)
    missing = list(range(1, world_size))
    while missing and time.monotonic() < deadline:
        missing = [rank for rank in missing if not store.check([f"{word}/here/{rank}"])]
        time.sleep(PERIOD_S if missing else 0.0)
    if missing:
        raise RankError(f"rank 0 waited {timeout_s:g} s for all {world_size} processes; missing: {missing}")
    answers = {str(rank): store.get(f"{word}/here/{rank}").decode() for rank in range(1, world_size)}
    store.set(f"{word}/all", json.dumps(answers))
    return word


def job_store(args: Any) -> Store | None:
    """Return what outlives the processes of a job that torchrun starts again: its agent's store; None without one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return PrefixStore("trackside/job", _shared_store(args, timedelta(seconds=args.ddp_timeout)))


_stores: dict[tuple[str, int], Store] = {}


def _shared_store(args: Any, timeout: timedelta) -> Store:
    """Return the store at the meeting point; torchrun's agent serves it, without torchrun the first process does.

    Raises:
        RankError: If nobody serves it.
    """
    address, port = rendezvous_endpoint(args.place)
    if (address, port) not in _stores:
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        serves = args.process_index == 0 and not served
        try:  # without waiting for the others: `meet` does, and names who is missing
            _stores[address, port] = TCPStore(
                address, port, args.world_size, serves, timeout=timeout, wait_for_workers=False
            )
        except dist.DistError as error:
            who = "torchrun's agent" if served else "rank 0"
            raise RankError(
                f"rank {args.process_index} did not reach {who} at {address}:{port} in {args.ddp_timeout:g} s: {error}"
            ) from error
    return _stores[address, port]


def _own_connection(store: Store) -> Store:
    """Return the same store by a connection of its own, so that a thread never waits behind the training."""
    try:
        clone: Store = store.clone()  # type: ignore[attr-defined]
        return clone
    except (RuntimeError, AttributeError, NotImplementedError):
        return store
