"""torchrun on two machines, each a network namespace: the rendezvous, the training, and a machine that is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.netns import Machines
from workers import ddp_common, ddp_weights

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Two machines that have begun to train when the cable between them is pulled."""
    with Machines() as machines:
        machines.torchrun(tmp_path_factory.mktemp("cut"), "faults_worker.py", "runs_long")
        wait_until_both_train(machines)
        machines.pull_cable()
        yield machines


@pytest.fixture
def machines(cut_off: Machines) -> Iterator[Machines]:
    """Two others, which work while those that are cut off wait in vain for each other."""
    with Machines() as machines:
        yield machines


def test_two_machines_train_to_the_end_and_have_the_weights_of_one_process(machines: Machines, tmp_path: Path) -> None:
    machines.torchrun(tmp_path / "two", "ddp_worker.py", "plain")
    expected = ddp_weights.plain(tmp_path / "one")

    for number in (0, 1):
        ended = machines.wait(number)
        assert ended.status == 0, ended.output
        for case, values in expected.items():
            found = ended.result["plain"][case]
            assert found["steps"] == values["steps"], case
            assert found["weights"] == pytest.approx(values["weights"], rel=0, abs=1e-10), case


def test_two_machines_save_each_on_its_own_disk_and_go_on_from_there(machines: Machines, tmp_path: Path) -> None:
    machines.torchrun(tmp_path, "ddp_worker.py", "saving_on_each_node")
    expected = ddp_common.trained(tmp_path / "one", max_steps=6, lr_scheduler_type="constant")

    results = [machines.wait(number) for number in (0, 1)]

    for number, ended in enumerate(results):
        assert ended.status == 0, ended.output
        found = ended.result["saving_on_each_node"]
        assert found["there"] == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "model.safetensors"]
        assert sorted(path.name for path in (tmp_path / f"disk{number}" / "out").iterdir()) == found["there"]
        assert found["resumed"]["weights"] == pytest.approx(expected["weights"], rel=0, abs=1e-10)
    refused = [ended.result["saving_on_each_node"]["refused"] for ended in results]
    text = "save_on_each_node=True is not allowed: False where the machines see one output_dir"
    assert sorted(text in error for error in refused) == [True, True], refused


def test_a_machine_whose_power_fails_is_named_by_the_other(machines: Machines, tmp_path: Path) -> None:
    machines.torchrun(tmp_path, "faults_worker.py", "runs_long")
    wait_until_both_train(machines)

    machines.kill(1)

    ended = machines.wait(0)
    assert ended.status != 0
    assert ended.result["error"] == "RankError", ended.output
    assert "rank 1 is gone, last seen in" in ended.result["text"]


def test_a_cut_cable_ends_the_processes_of_both_machines(cut_off: Machines) -> None:
    # torchrun itself waits on the lost machine until TCP gives up, a quarter of an hour; its process does not
    wait_until(lambda: len(cut_off.processes(1)) == 1, "the lost machine's process goes on")
    first = cut_off.wait(0)

    assert first.status != 0
    texts = [json.loads((cut_off.folder / f"rank{rank}.json").read_text())["text"] for rank in (0, 1)]
    assert "rank 1 is gone, last seen in" in texts[0], first.output
    assert "the process that serves the store (rank 0, or torchrun's agent) is gone, or out of reach" in texts[1]


def wait_until_both_train(machines: Machines) -> None:
    begun = [machines.folder / f"trains{rank}" for rank in (0, 1)]
    wait_until(lambda: all(path.exists() for path in begun) or not machines.are_running(), "they do not begin to train")
    assert machines.are_running(), machines.wait(0).output


def wait_until(is_so: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + 200
    while not is_so():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.1)
