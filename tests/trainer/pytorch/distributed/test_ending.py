"""The end of a process that was in a process group: nothing is aborted, however late the threads of gloo are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.ranks import free_port

# A thread of gloo gives back one tensor after the other, after the collective has returned. With so many of them the
# interpreter is finalized first: without `leave_at_exit` such a process ends with SIGABRT.
ENDS_AT_ONCE = """
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist

from trackside.trainer.distributed.launcher import ProcessRank
from trackside.trainer.pytorch.distributed import ending
from trackside.trainer.pytorch.distributed.rendezvous import join

if sys.argv[1] == "the user's group":
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{sys.argv[2]}", rank=0, world_size=1)
place = ProcessRank(rank=0, local_rank=0, world_size=1, launcher="torchrun")
args = SimpleNamespace(place=place, process_index=0, world_size=1, ddp_backend=None, ddp_timeout=20.0)
join(args, torch.device("cpu"))
if sys.argv[1] == "after an error":
    ending.abandon(dist.group.WORLD)
tensors = [torch.zeros(1) for _ in range(20_000)]
work = dist.all_reduce_coalesced(tensors, async_op=True)
work.wait()
del work
"""


@pytest.mark.parametrize("case", ["a trainer's group", "the user's group", "after an error"])
def test_a_process_ends_well_while_gloo_still_gives_tensors_back(case):
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDS_AT_ONCE, case, str(free_port())],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
