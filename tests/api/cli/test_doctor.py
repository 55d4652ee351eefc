"""`trackside doctor` by its real command line: alone, broken in every way, and as one process of several."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ranks import free_port, rank_environment

from trackside.cli.doctor.ranks import _differences

DOCTOR = [sys.executable, "-m", "trackside", "doctor"]
STAND_IN = "__version__ = 'none'\nclass config:\n    list_physical_devices = staticmethod(list)\n"
"""A package tensorflow that is quick to import."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TF_CONFIG", "PJRT_DEVICE", "CUDA_VISIBLE_DEVICES")


def start(*options, command=DOCTOR, path=None, **environment):
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES} | environment
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(path), *(item for item in sys.path if item)])
    return subprocess.Popen(
        [*command, *options],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )


def ended(process):
    output, errors = process.communicate(timeout=200)
    return process.returncode, output, errors


@pytest.fixture
def without_frameworks(tmp_path):
    """A folder for PYTHONPATH in which both frameworks, and a callback, are broken in ways of their own."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.99: cannot open it')")
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    described = tmp_path / "broken_plugin-1.2.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.2\n")
    (described / "entry_points.txt").write_text("[trackside.callbacks]\nbroken = no_such_module:Callback\n")
    return tmp_path


@pytest.mark.slow
def test_what_is_there_is_found_and_nothing_is_wrong():
    status, output, errors = ended(start("--json"))

    found = json.loads(output)
    assert (status, found["ok"], found["problems"], found["ranks"]) == (0, True, [], None), errors
    for package in ("torch", "keras", "numpy"):
        assert found["packages"][package] == importlib.metadata.version(package)
    assert found["launcher"] == {
        "variables": {},
        "Trainer": "one process on its own",
        "TFTrainer": "one process on its own",
    }
    assert "gloo" in found["devices"]["torch backends"]
    assert "CPU:0" in found["devices"]["tensorflow"]
    assert "early_stopping" in found["callbacks"]["registered"]


def test_everything_that_is_broken_is_a_line_and_no_traceback(without_frameworks):
    broken = {"RANK": "5", "WORLD_SIZE": "2", "WANDB_API_KEY": "a-secret", "PJRT_DEVICE": "TPU"}

    status, output, errors = ended(start(path=without_frameworks, **broken))

    assert status == 1
    problems = output.split("Problems\n")[1]
    assert "torch: cannot be imported: ImportError: libcudart.so.99: cannot open it" in problems
    assert "tensorflow: importing it ends the process with SIGSEGV" in problems
    assert "the callback 'broken' of broken-plugin 1.2, no_such_module:Callback cannot be imported" in problems
    assert "RANK=5 is not allowed: a rank below WORLD_SIZE=2" in problems
    assert len(problems.splitlines()) == 4
    assert "by WANDB_API_KEY" in output
    assert "a-secret" not in output + errors
    assert "Traceback" not in output + errors


@pytest.mark.parametrize("missing", [("torch",), ("torch", "tensorflow")], ids=["one is missing", "both are missing"])
def test_a_framework_may_be_missing_but_not_both(without_frameworks, missing):
    (without_frameworks / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        f"util.find_spec = lambda name, *rest: None if name in {missing} else found(name, *rest)\n"
    )
    (without_frameworks / "tensorflow" / "__init__.py").write_text(STAND_IN)
    (without_frameworks / "broken_plugin-1.2.dist-info" / "entry_points.txt").unlink()

    status, output, errors = ended(start(path=without_frameworks))

    assert "torch       not installed" in output, errors
    if len(missing) == 1:
        assert (status, output.splitlines()[-1]) == (0, "Nothing is wrong.")
    else:
        assert status == 1
        assert "Problems\n  neither torch nor tensorflow is installed, so that nothing can be trained. Run: " in output
        assert output.endswith("pip install 'trackside[torch]', or pip install 'trackside[tensorflow]'\n")


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.fixture
def without_tensorflow(without_frameworks):
    """Like a machine without TensorFlow, which takes seconds to import."""
    (without_frameworks / "torch" / "__init__.py").unlink()
    (without_frameworks / "torch").rmdir()
    (without_frameworks / "broken_plugin-1.2.dist-info" / "entry_points.txt").unlink()
    (without_frameworks / "tensorflow" / "__init__.py").write_text(STAND_IN)
    return without_frameworks


@pytest.mark.slow
def test_two_processes_check_their_collectives_and_the_first_prints(without_tensorflow):
    port = str(free_port())
    jobs = [
        start("--json", path=without_tensorflow, **rank_environment(rank, 2, port, "torchrun")) for rank in range(2)
    ]

    (status, output, errors), other = ended(jobs[0]), ended(jobs[1])

    assert other == (0, "", "")
    found = json.loads(output)
    assert (status, found["ok"]) == (0, True), errors
    assert [process["rank"] for process in found["ranks"]["processes"]] == [0, 1]
    assert [process["pid"] for process in found["ranks"]["processes"]] == [job.pid for job in jobs]
    collective = found["ranks"]["collective"]
    assert (collective["backend"], collective["sum"]) == ("gloo", "right")
    assert float(collective["all-reduce of 16 MiB"].removesuffix(" ms")) > 0.0


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named_by_those_that_do(without_tensorflow):
    port = str(free_port())
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    jobs = [start("--timeout", "3", path=without_tensorflow, **rank_environment(0, 3, port, "mpi"))]
    jobs.append(start(command=fails, path=without_tensorflow, **rank_environment(1, 3, port, "mpi")))
    jobs.append(start("--timeout", "3", path=without_tensorflow, **rank_environment(2, 3, port, "mpi")))

    first, failed, last = map(ended, jobs)

    assert [first[0], failed[0], last[0]] == [1, 3, 1]
    assert "rank 0 waited 3 s for all 3 processes; missing: [1" in first[1].split("Problems\n")[1]
    assert "trackside doctor: rank 2: RankError: " in last[2]
    assert "Traceback" not in first[2] + last[2]


def test_processes_with_other_software_are_named():
    processes = [
        {"rank": rank, "host": f"node{rank}", "python": "3.11.7", "torch": version}
        for rank, version in enumerate(("2.13.0", "2.13.0", "2.12.1"))
    ]

    assert _differences(processes) == ["rank 2 on node2 has torch 2.12.1, rank 0 has 2.13.0"]
