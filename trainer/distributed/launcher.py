"""Launcher detection: the rank of this process and the rendezvous endpoint, from environment variables only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from trackside.callbacks.errors import ArgumentError

# rank, world size, local rank; torchrun first, since another launcher may have started torchrun
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "pmi": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
PORT = 29500
LAST_PORT = 65535
INTERACTIVE = {"bash", "sh", "zsh", "interactive"}


@dataclass(frozen=True)
class ProcessRank:
    """The rank of one process in a run.

    Attributes:
        rank: Rank among all processes.
        world_size: Number of processes.
        local_rank: Rank among the processes of its machine; -1 if unknown.
        launcher: The launcher: "torchrun", "slurm", "mpi", "pmi", "tf_config"; None for a single process.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = -1
    launcher: str | None = None


class JobStore(Protocol):
    """A key-value store of short texts that persists when the launcher restarts the processes of a job."""

    def set(self, name: str, text: str, /) -> None:
        """Write a text."""

    def get(self, name: str, /) -> bytes:
        """Return a text."""

    def check(self, names: list[str], /) -> bool:
        """Return whether all of these texts exist."""


def detect_launcher(environ: Mapping[str, str] | None = None) -> ProcessRank:
    """Return the rank of this process from the first launcher that sets both a rank and a world size.

    An interactive SLURM shell, which also sets the variables of SLURM, does not count as a launcher.

    Raises:
        ArgumentError: If a variable is not a number, or the rank has no world size or is not below it.

    Example:
        >>> detect_launcher({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
        ProcessRank(rank=1, world_size=2, local_rank=1, launcher='torchrun')
    """
    environ = os.environ if environ is None else environ
    for launcher, (rank, world_size, local_rank) in LAUNCHERS.items():
        if launcher == "slurm" and environ.get("SLURM_JOB_NAME") in INTERACTIVE:
            continue
        if rank in environ and world_size in environ:
            numbers = _number(environ, rank), _number(environ, world_size, low=1), _number(environ, local_rank, low=-1)
            place = ProcessRank(*numbers, launcher)
            if place.rank >= place.world_size:
                raise ArgumentError(rank, place.rank, f"a rank below {world_size}={place.world_size}")
            return place
        if launcher != "slurm" and rank in environ:  # a batch script of SLURM also has a rank
            raise ArgumentError(world_size, None, f"the number of processes, which goes with {rank}={environ[rank]}")
    return ProcessRank(local_rank=_number(environ, "LOCAL_RANK", default=-1, low=-1))


def rendezvous_endpoint(place: ProcessRank, environ: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Return the address and the port at which the processes of a run find each other.

    These are MASTER_ADDR and MASTER_PORT, as torchrun sets them. Without them, the endpoint is the first node of a
    SLURM job, with a port derived from the job's id, or the machine on which MPI started all processes.

    Raises:
        ArgumentError: If the address is unknown, or the port is not valid.

    Example:
        >>> environ = {"SLURM_JOB_NODELIST": "gpu[07-09],cpu1", "SLURM_JOB_ID": "41"}
        >>> rendezvous_endpoint(ProcessRank(0, 2, 0, "slurm"), environ)
        ('gpu07', 29541)
    """
    environ = os.environ if environ is None else environ
    address = environ.get("MASTER_ADDR") or _first_machine(place, environ)
    if address is None:
        raise ArgumentError(
            "MASTER_ADDR", None, "set it to the address of the machine of rank 0, in the environment of every process"
        )
    port = _number(environ, "MASTER_PORT", PORT + _number(environ, "SLURM_JOB_ID") % 10_000, low=1)
    if port > LAST_PORT:
        raise ArgumentError("MASTER_PORT", port, f"at most {LAST_PORT}")
    return address, port


def _first_machine(place: ProcessRank, environ: Mapping[str, str]) -> str | None:
    if place.launcher == "slurm":
        return first_host(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")) or None
    sizes = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
    here = next((environ[name] for name in sizes if name in environ), None)
    return "127.0.0.1" if here == str(place.world_size) else None


def first_host(nodelist: str) -> str:
    """Return the first host of a SLURM node list.

    Example:
        >>> first_host("gpu[07-09,12],cpu1"), first_host("node1,node2")
        ('gpu07', 'node1')
    """
    name, bracket, rest = nodelist.split(",")[0].partition("[")
    return name + rest.split("-")[0].rstrip("]") if bracket else name


def _number(environ: Mapping[str, str], name: str, default: int = 0, low: int = 0) -> int:
    text = environ.get(name, str(default))
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise ArgumentError(name, text, f"a whole number, at least {low}, in the environment of this process")
    return number
