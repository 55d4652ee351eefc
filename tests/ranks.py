"""Start real processes that train together, on loopback, and read what each of them found."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trackside.trainer.launcher import LAUNCHERS

TESTS = Path(__file__).parent


@dataclass
class Ended:
    """How a process ended: its exit status, its output, and what it wrote down for the test."""

    status: int
    output: str
    result: Any


class Job:
    """Processes of one run, started at once.

    Args:
        script: A file in tests/, called as ``script FOLDER NAME...``; every rank may write FOLDER/rank{n}.json.
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
            subprocess.Popen(
                [sys.executable, str(TESTS / script), str(folder), *names],
                env=rank_environment(rank, world_size, port, launcher) | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=folder,
                start_new_session=True,
            )
            for rank in range(world_size)
        ]

    def wait(self, timeout_s: float = 120.0) -> list[Ended]:
        """Return how each process ended, in the order of the ranks; kill all if they take too long."""
        outputs = []
        try:
            outputs = [process.communicate(timeout=timeout_s)[0] for process in self.processes]
        except subprocess.TimeoutExpired:
            for process in self.processes:  # with all that they started, which has the same pipe
                os.killpg(process.pid, signal.SIGKILL)
            outputs = [process.communicate()[0] for process in self.processes]
            raise AssertionError("the processes hang:\n" + "\n-----\n".join(outputs)) from None
        return [
            Ended(process.returncode, output, _result(self.folder / f"rank{rank}.json"))
            for rank, (process, output) in enumerate(zip(self.processes, outputs, strict=True))
        ]

    def results(self, timeout_s: float = 120.0) -> list[Any]:
        """Return what each process wrote down, and fail with its output if one failed."""
        ended = self.wait(timeout_s)
        for rank, process in enumerate(ended):
            assert process.status == 0, f"rank {rank} ended with {process.status}:\n{process.output}"
        return [process.result for process in ended]


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _result(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None
