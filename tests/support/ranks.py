"""Start real processes that train together, on loopback, and read what each of them found."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fork_process import TESTS, Fork
from trackside.trainer.distributed.launcher import LAUNCHERS


@dataclass
class Ended:
    """How a process ended: its exit status, its output, and what it wrote down for the test."""

    status: int
    output: str
    result: Any


class Job:
    """Processes of one run, started at once.

    Args:
        script: A file in tests/workers/, called as ``script FOLDER NAME...``; every rank may write FOLDER/rank{n}.json.
        world_size: How many processes.
        folder: Where they write.
        names: Passed on.
        launcher: Whose variables tell the processes their places.
        environment: More variables of the environment.
    """

    def __init__(
        self,
        script: str,
        world_size: int,
        folder: Path,
        names: Sequence[str],
        launcher: str = "torchrun",
        **environment: str,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        port = str(free_port())
        self.processes = [
            Fork(
                "torch",
                [str(TESTS / "workers" / script), str(folder), *names],
                folder,
                rank_environment(rank, world_size, port, launcher) | environment,
                name=f"rank{rank}",
                number=min(rank, 1),
            )
            for rank in range(world_size)
        ]

    def wait(self, timeout_s: float = 240.0) -> list[Ended]:
        """Return how each process ended, in the order of the ranks; kill all if they take too long."""
        deadline = time.monotonic() + timeout_s
        statuses = [process.wait(max(0.0, deadline - time.monotonic())) for process in self.processes]
        outputs = [process.output + process.errors for process in self.processes]
        if None in statuses:
            self.kill()
            raise AssertionError(f"they ended with {statuses}; None hang:\n" + "\n-----\n".join(outputs))
        results = [_result(self.folder / f"rank{rank}.json") for rank in range(len(statuses))]
        return [Ended(*each) for each in zip(statuses, outputs, results, strict=True)]

    def results(self, timeout_s: float = 240.0) -> list[Any]:
        """Return what each process wrote down, and fail with its output if one failed."""
        ended = self.wait(timeout_s)
        for rank, process in enumerate(ended):
            assert process.status == 0, f"rank {rank} ended with {process.status}:\n{process.output}"
        return [process.result for process in ended]

    def kill(self) -> None:
        """Kill those that live, with all that they started."""
        for process in self.processes:
            process.kill()


def rank_environment(rank: int, world_size: int, port: str, launcher: str) -> dict[str, str]:
    """Return what a launcher sets; only torchrun tells where to meet, the others which machines there are."""
    here = {
        "torchrun": {"LOCAL_WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1"},
        "slurm": {"SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_JOB_NAME": "train"},
        "mpi": {"OMPI_COMM_WORLD_LOCAL_SIZE": world_size},
    }
    place = dict(zip(LAUNCHERS[launcher], (rank, world_size, rank), strict=True))
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": port}
    own = {name: str(value) for name, value in {**threads, **here[launcher], **place}.items()}
    others = {name for names in LAUNCHERS.values() for name in names} | {"MASTER_ADDR"}
    return {name: value for name, value in os.environ.items() if name not in others} | own


def free_port() -> int:
    """Return a port that stays free until it is used.

    The kernel does not give it to a process that asks for any port, and no other test gets it before this process ends.
    """
    first_given_out = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10_000, max(first_given_out, 11_000))
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0trackside-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port


_claims: list[socket.socket] = []


def _result(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
