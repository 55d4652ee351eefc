"""Check of the processes of a job: all join, sum their ranks, and time two all-reduces."""

from __future__ import annotations

import os
import platform
import socket
import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from trackside.trainer.distributed.launcher import ProcessRank
from trackside.trainer.pytorch.distributed.ddp import DDP

SMALL, LARGE = 1, 4 * 2**20  # numbers of four bytes


def check(place: ProcessRank, timeout_s: float) -> dict[str, Any]:
    """Return a description of each process, the times of collectives, and problems; the same on all processes.

    Raises:
        RankError: If a process does not join, or ends early; the message names it.
    """
    device = _device(place)
    args = SimpleNamespace(
        place=place, process_index=place.rank, world_size=place.world_size, ddp_backend=None, ddp_timeout=timeout_s
    )
    group = DDP(args, device)
    group.describe_progress = lambda: "the check of trackside doctor"
    with group.propagate_errors():
        processes = group.collectives.gather("what each process is", _itself(place, device))
        expected = place.world_size * (place.world_size + 1) // 2
        total = float(group.all_reduce(place.rank + 1))
        times = {
            "all-reduce of 4 bytes": f"{_time(group, device, SMALL, 20) * 1e6:.0f} us",
            "all-reduce of 16 MiB": f"{_time(group, device, LARGE, 5) * 1e3:.1f} ms",
        }
        group.collectives.barrier("the end of the check")
    backend = dist.get_backend()
    dist.destroy_process_group()
    wrong = [] if total == expected else [f"the numbers of the ranks sum up to {total:g}, and not to {expected}"]
    collective = {"backend": backend, "sum": "right" if not wrong else "wrong", **times}
    return {"processes": processes, "collective": collective, "problems": wrong + _differences(processes)}


def _device(place: ProcessRank) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", max(0, place.local_rank) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _itself(place: ProcessRank, device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {
        "rank": place.rank,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "device": f"{device} {name}" if device.type == "cuda" else name,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _time(group: DDP, device: torch.device, numbers: int, times: int) -> float:
    """Return the median seconds of an all-reduce, after one that opens the connections."""
    tensor = torch.zeros(numbers, device=device)
    taken = []
    with group.watchdog.collective(f"an all-reduce of {4 * numbers} bytes"):
        for _ in range(times + 1):
            start_s = time.perf_counter()
            dist.all_reduce(tensor)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken.append(time.perf_counter() - start_s)
    return statistics.median(taken[1:])


def _differences(processes: list[dict[str, Any]]) -> list[str]:
    """Return the differences in software between the processes and the first one."""
    first = processes[0]
    return [
        f"rank {process['rank']} on {process['host']} has {name} {process[name]}, rank 0 has {first[name]}"
        for process in processes[1:]
        for name in ("python", "torch")
        if process[name] != first[name]
    ]
