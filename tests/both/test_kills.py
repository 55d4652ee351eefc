"""Runs killed at random instants, in saves too, are bit by bit those that were not: losses, weights, callbacks."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from support.fork_process import TESTS, Fork
from workers.killed_run import PAUSE_S, STEPS

KILLS = 20
WORKER = TESTS / "workers" / "killed_run.py"
KINDS = [
    *("torch, workers: 0", "torch, workers: 2", "torch, iterable, workers: 0", "torch, iterable, workers: 2"),
    *("tensorflow generator", "tensorflow map", "tensorflow interleave", "tensorflow own"),
    *("tensorflow random", "tensorflow stateful"),
]


def started(kind: str, folder: Path, left_out: str = "") -> Fork:
    folder.mkdir(exist_ok=True)
    arguments = [str(WORKER), kind, str(folder), *([left_out] if left_out else [])]
    return Fork("torch" if kind.startswith("torch") else "tensorflow", arguments, folder)


def finished(kind: str, folder: Path, left_out: str = "") -> list[str]:
    """Run to the end; return the lines of the steps."""
    process = started(kind, folder, left_out)
    assert process.wait(120) == 0, process.errors[-3000:]
    return lines(folder)


def lines(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint that a run has committed; 0 without any."""
    found = [path.name.removeprefix("checkpoint-") for path in (folder / "out").glob("checkpoint-*")]
    return max((int(step) for step in found if step.isdecimal()), default=0)


def killed(kind: str, folder: Path, draw: random.Random, left_out: str = "", steps: tuple[int, int] = (2, 5)) -> bool:
    """Start a run and kill it some steps on, at any instant within two, when it has saved since its start.

    Returns:
        Whether it was still running.
    """
    before = newest(folder)
    process, wanted = started(kind, folder, left_out), len(lines(folder)) + draw.randint(*steps)
    pause_s = draw.uniform(0.0, 2 * PAUSE_S)
    deadline = time.monotonic() + 120
    while (len(lines(folder)) < wanted or newest(folder) == before) and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.001)
    time.sleep(pause_s)
    is_running = process.poll() is None
    process.kill()
    process.wait(60)
    assert process.returncode in (0, -9), process.errors[-3000:]
    return is_running


def by_step(noted: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in noted:
        step, _, numbers = line.partition(" ")
        found.setdefault(step, set()).add(numbers)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_at_many_random_instants_is_the_run_that_was_not(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(kind.split(",")[0].split()[0])
    draw, kills, resumes = random.Random(kind), 0, 0
    whole = finished(kind, tmp_path / "whole")

    while kills < KILLS:  # a run that ends before its kill begins again in another folder
        folder = tmp_path / f"cut-{kills}"
        while kills < KILLS and killed(kind, folder, draw):
            kills += 1
            resumes += 0 < newest(folder) < STEPS
        cut = finished(kind, folder)

        assert by_step(cut) == by_step(whole)
        assert (folder / "final").read_bytes() == (tmp_path / "whole" / "final").read_bytes()

    assert resumes >= KILLS - 2  # a run may be killed just behind its last save


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch, workers: 0", "tensorflow own"])
def test_a_generator_that_is_left_out_is_found(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(kind.split(",")[0].split()[0])
    draw: Any = random.Random(0)
    whole = finished(kind, tmp_path / "whole")
    assert killed(kind, tmp_path / "cut", draw, left_out="torch", steps=(12, 12))
    assert list((tmp_path / "cut" / "out").glob("checkpoint-*"))

    cut = finished(kind, tmp_path / "cut", left_out="torch")

    assert by_step(cut) != by_step(whole)
