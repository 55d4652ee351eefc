"""Processes meet under a word that only those of this attempt have."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from support.ranks import free_port

from trackside.callbacks.errors import ArgumentError, RankError
from trackside.trainer.distributed.launcher import ProcessRank
from trackside.trainer.pytorch.distributed.rendezvous import agree_on_nonce, backend_for, join


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def met(store, world_size, timeout_s=60.0):
    connections = [dist.TCPStore("127.0.0.1", store.port, is_master=False) for _ in range(world_size)]
    with ThreadPoolExecutor(world_size) as pool:
        jobs = [
            pool.submit(agree_on_nonce, connections[rank], rank, world_size, timeout_s) for rank in range(world_size)
        ]
        return [job.result() for job in jobs]


def test_all_have_one_word_and_another_one_the_next_time(store):
    first, second = met(store, 3), met(store, 3)

    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]


def test_what_a_dead_attempt_left_in_the_store_is_not_taken_for_this_one(store):
    store.set("call", "old")
    for rank in (1, 2):
        store.set(f"old/here/{rank}", f"dead {rank}")
    store.set("old/all", json.dumps({"1": "dead 1", "2": "dead 2"}))

    words = met(store, 3)

    assert len(set(words)) == 1
    assert words[0] != "old"


def test_who_does_not_come_is_named(store):
    with pytest.raises(RankError, match=r"rank 0 waited 0\.2 s for all 3 processes; missing: \[1, 2\]"):
        agree_on_nonce(store, 0, 3, 0.2)
    with pytest.raises(RankError, match=r"rank 2 waited 0\.2 s for rank 0"):
        agree_on_nonce(store, 2, 3, 0.2)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, r"rank 0 waited 1 s for all 2 processes; missing: \[1\]"),
        (1, r"rank 1 did not reach rank 0 at 127\.0\.0\.1:\d+ in 1 s"),
    ],
)
def test_a_process_without_the_others_says_who_is_missing(rank, message, monkeypatch):
    place = ProcessRank(rank, 2, rank, "torchrun")
    args = SimpleNamespace(place=place, process_index=rank, world_size=2, ddp_backend=None, ddp_timeout=1)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))

    with pytest.raises(RankError, match=message):
        join(args, torch.device("cpu"))


def test_a_backend_that_torch_does_not_have_is_named():
    device = torch.device("cpu")

    assert [backend_for(name, device) for name in (None, "gloo", "cpu:gloo")] == ["gloo", "gloo", "cpu:gloo"]
    with pytest.raises(ArgumentError, match=r"ddp_backend='glo' is not allowed: .* Did you mean 'gloo'"):
        backend_for("glo", device)
