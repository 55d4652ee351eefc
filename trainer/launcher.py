"""Where this process stands among those that a launcher started, read from the environment and from nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..callbacks.errors import ArgumentError

# rank, world size, local rank: torchrun first, since it may itself have been started by one of the others
LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
INTERACTIVE = {"bash", "sh", "zsh", "interactive"}


@dataclass(frozen=True)
class Place:
    """One process among all of a run.

    Attributes:
        rank: Its number among all processes.
        world_size: How many processes there are.
        local_rank: Its number among those of its machine; -1 where nobody said.
        launcher: Who started it: "torchrun", "slurm", "mpi", "tf_config"; None for a process on its own.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = -1
    launcher: str | None = None


def find_place(environ: Mapping[str, str] | None = None) -> Place:
    """Return the place that the first launcher with both a rank and a world size gives this process.

    An interactive SLURM shell sets SLURM's variables too, but starts one process by hand; it does not count.

    Raises:
        ArgumentError: If a variable does not hold a number, or the rank is not below the world size.

    Example:
        >>> find_place({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"})
        Place(rank=1, world_size=2, local_rank=1, launcher='torchrun')
    """
    environ = os.environ if environ is None else environ
    for launcher, (rank, world_size, local_rank) in LAUNCHERS.items():
        if launcher == "slurm" and environ.get("SLURM_JOB_NAME") in INTERACTIVE:
            continue
        if rank in environ and world_size in environ:
            numbers = _number(environ, rank), _number(environ, world_size, low=1), _number(environ, local_rank, low=-1)
            place = Place(*numbers, launcher)
            if place.rank >= place.world_size:
                raise ArgumentError(rank, place.rank, f"a rank below {world_size}={place.world_size}")
            return place
    return Place(local_rank=_number(environ, "LOCAL_RANK", default=-1, low=-1))


def _number(environ: Mapping[str, str], name: str, default: int = 0, low: int = 0) -> int:
    text = environ.get(name, str(default))
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise ArgumentError(name, text, f"a whole number, at least {low}, in the environment of this process")
    return number
