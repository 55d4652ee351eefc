"""The place of a process among those that a launcher started."""

from __future__ import annotations

import pytest

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.arguments.enums import ParallelMode
from trackside.trainer.distributed.launcher import LAUNCHERS, ProcessRank, detect_launcher, rendezvous_endpoint

pytestmark = pytest.mark.usefixtures("no_launcher")


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_the_place_comes_from_the_launcher(launcher, monkeypatch):
    for name, value in zip(LAUNCHERS[launcher], ("3", "4", "1"), strict=True):
        monkeypatch.setenv(name, value)

    args = BaseTrainingArguments()

    assert (args.process_index, args.world_size, args.local_process_index, args.local_rank) == (3, 4, 1, 1)
    assert args.parallel_mode == ParallelMode.DISTRIBUTED
    assert not args.should_save
    assert not args.should_log


def test_a_process_on_its_own_is_the_first_of_one():
    args = BaseTrainingArguments()

    assert (args.process_index, args.world_size, args.local_process_index, args.local_rank) == (0, 1, 0, -1)
    assert args.parallel_mode == ParallelMode.NOT_PARALLEL
    assert args.should_save
    assert args.should_log


def test_an_interactive_slurm_shell_is_one_process():
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}

    assert detect_launcher(slurm).world_size == 8
    assert detect_launcher({**slurm, "SLURM_JOB_NAME": "bash"}) == ProcessRank()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one' is not allowed: a whole number, at least 0"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE='0' is not allowed: a whole number, at least 1"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is not allowed: a rank below WORLD_SIZE=2"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK='x' is not allowed"),
        ({"RANK": "1"}, "WORLD_SIZE=None is not allowed: the number of processes, which goes with RANK=1"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE=None is not allowed"),
    ],
)
def test_a_launcher_variable_that_makes_no_sense_is_named(environ, message):
    with pytest.raises(ArgumentError, match=message):
        detect_launcher(environ)


def test_the_level_of_messages_is_that_of_the_process(monkeypatch):
    assert BaseTrainingArguments(log_level="debug").get_process_log_level() == 10

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert BaseTrainingArguments(log_level="debug", log_level_replica="error").get_process_log_level() == 40


@pytest.mark.parametrize(
    ("launcher", "environ", "expected"),
    [
        ("torchrun", {"MASTER_ADDR": "node1", "MASTER_PORT": "123"}, ("node1", 123)),
        (
            "slurm",
            {"SLURM_STEP_NODELIST": "b[2-3]", "SLURM_JOB_NODELIST": "a[1-3]", "SLURM_JOB_ID": "7"},
            ("b2", 29507),
        ),
        ("slurm", {"SLURM_JOB_NODELIST": "a1", "MASTER_ADDR": "node1"}, ("node1", 29500)),
        ("mpi", {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, ("127.0.0.1", 29500)),
        ("pmi", {"MPI_LOCALNRANKS": "4"}, ("127.0.0.1", 29500)),
    ],
)
def test_processes_meet_where_the_launcher_says(launcher, environ, expected):
    assert rendezvous_endpoint(ProcessRank(1, 4, 1, launcher), environ) == expected


@pytest.mark.parametrize("environ", [{"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, {"MPI_LOCALNRANKS": "2"}, {}])
def test_several_machines_need_an_address_to_meet_at(environ):
    with pytest.raises(ArgumentError, match="MASTER_ADDR=None is not allowed: set it to the address of the machine of"):
        rendezvous_endpoint(ProcessRank(1, 4, 1, "mpi"), environ)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MASTER_ADDR": "a", "MASTER_PORT": "99999"}, "MASTER_PORT=99999 is not allowed: at most 65535"),
        ({"MASTER_ADDR": "a", "SLURM_JOB_ID": "job"}, "SLURM_JOB_ID='job' is not allowed: a whole number"),
    ],
)
def test_a_port_that_is_none_is_named(environ, message):
    with pytest.raises(ArgumentError, match=message):
        rendezvous_endpoint(ProcessRank(0, 2, 0, "slurm"), environ)
