"""Rendezvous of the processes of a run: the shared store and the process group."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # torch.distributed has them, untyped

from trackside.callbacks.errors import ArgumentError, RankError, did_you_mean
from trackside.trainer.distributed.launcher import rendezvous_endpoint

from .._compat import default_store
from . import ending

PERIOD_S = 0.01
"""Interval between two reads of the store, in seconds."""

_watches_made = count()


def join(args: Any, device: torch.device) -> Store:
    """Join the process group, unless this process is in one, and return the store that all ranks share.

    The names in the store begin with a nonce that the ranks agree on; see `agree_on_nonce`. torchrun keeps its store
    when it restarts workers, and without a nonce the new workers would read the addresses of the old ones.

    Args:
        args: Read for ddp_backend, ddp_timeout and the rank of this process.
        device: The device of this process, which selects nccl or gloo.

    Raises:
        ArgumentError: If the endpoint is unknown, or torch was built without the backend.
        RankError: If a rank does not join in time.
    """
    if dist.is_initialized():
        store: Store = default_store()
    else:
        timeout = timedelta(seconds=args.ddp_timeout)
        shared = _shared_store(args, timeout)
        nonce = agree_on_nonce(PrefixStore("trackside", shared), args.process_index, args.world_size, args.ddp_timeout)
        store = PrefixStore(f"trackside/{nonce}", shared)
        dist.init_process_group(
            backend_for(args.ddp_backend, device),
            store=store,
            rank=args.process_index,
            world_size=args.world_size,
            timeout=timeout,
        )
        ending.own(dist.group.WORLD)
    ending.leave_at_exit()
    return PrefixStore(f"watch-{next(_watches_made)}", _own_connection(store))


@contextmanager
def first_then_others(args: Any, device: torch.device, *, is_first: bool) -> Iterator[None]:
    """Return a context that the processes with ``is_first`` go through before the others, which wait at its begin.

    Raises:
        RankError: If a process does not join.
    """
    join(args, device)
    if not is_first:
        dist.barrier()
    try:
        yield
    finally:  # also after an error, which ends this process; the others would wait for it
        if is_first:
            dist.barrier()


def backend_for(wanted: str | None, device: torch.device) -> str:
    """Return the backend of torch.distributed: ``wanted``, or nccl for CUDA and gloo for other devices.

    Raises:
        ArgumentError: If torch was built without ``wanted``.
    """
    if wanted is None:
        return "nccl" if device.type == "cuda" else "gloo"
    there = [name for name in dist.Backend.backend_list if name != "undefined" and dist.is_backend_available(name)]
    for name in (part.split(":")[-1].lower() for part in wanted.split(",")):  # also "cpu:gloo,cuda:nccl"
        if name not in there:
            allowed = f"what this build of torch has: {', '.join(there)}.{did_you_mean(name, there)}"
            raise ArgumentError("ddp_backend", wanted, allowed)
    return wanted


def agree_on_nonce(store: Store, rank: int, world_size: int, timeout_s: float) -> str:
    """Return a nonce that all ranks of this attempt share, and that differs from earlier attempts.

    Rank 0 writes a new nonce, every other rank answers with a random number, and rank 0 repeats all numbers: a rank
    that reads its own number takes part in this attempt; a dead process of its rank in an earlier attempt had another
    number. The restart count of torchrun cannot be the nonce, since machines that join later count from zero.

    Raises:
        RankError: If a rank does not join in time; the message has the ranks.
    """
    if rank == 0:
        return _write_nonce(store, world_size, timeout_s)
    own, answered, deadline = uuid.uuid4().hex, "", time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        nonce = store.get("nonce").decode() if store.check(["nonce"]) else ""
        if nonce != answered:
            store.set(f"{nonce}/here/{rank}", own)
            answered = nonce
        if nonce and store.check([f"{nonce}/all"]) and json.loads(store.get(f"{nonce}/all")).get(str(rank)) == own:
            return nonce
        time.sleep(PERIOD_S)
    raise RankError(f"rank {rank} waited {timeout_s:g} s for rank 0, which did not write or did not answer")


def _write_nonce(store: Store, world_size: int, timeout_s: float) -> str:
    nonce, deadline = uuid.uuid4().hex, time.monotonic() + timeout_s
    store.set("nonce", nonce)
    missing = list(range(1, world_size))
    while missing and time.monotonic() < deadline:
        missing = [rank for rank in missing if not store.check([f"{nonce}/here/{rank}"])]
        time.sleep(PERIOD_S if missing else 0.0)
    if missing:
        raise RankError(f"rank 0 waited {timeout_s:g} s for all {world_size} processes; missing: {missing}")
    answers = {str(rank): store.get(f"{nonce}/here/{rank}").decode() for rank in range(1, world_size)}
    store.set(f"{nonce}/all", json.dumps(answers))
    return nonce


def job_store(args: Any) -> Store | None:
    """Return the store of torchrun's agent, which persists when processes are restarted; None without torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return PrefixStore("trackside/job", _shared_store(args, timedelta(seconds=args.ddp_timeout)))


_stores: dict[tuple[str, int], Store] = {}


def _shared_store(args: Any, timeout: timedelta) -> Store:
    """Return the store at the rendezvous endpoint, served by torchrun's agent, or without torchrun by rank 0.

    Raises:
        RankError: If the store is not reached in time.
    """
    address, port = rendezvous_endpoint(args.place)
    if (address, port) not in _stores:
        served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        serves = args.process_index == 0 and not served
        try:  # without waiting for the other ranks: `agree_on_nonce` does, and names the missing ones
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
    """Return the same store on another connection, so that a thread never waits for the training."""
    try:
        clone: Store = store.clone()  # type: ignore[attr-defined]
        return clone
    except (RuntimeError, AttributeError, NotImplementedError):
        return store
