"""Under torchrun with restarts a run that lost a worker, or a machine, goes on by itself and ends as if it had not."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fork_process import TESTS, Fork
from support.ranks import free_port

from trackside import TrainerCallback
from trackside.trainer.checkpointing.choosing.choice import runs_begun

TORCHRUN = ["-c", "from torch.distributed.run import main; main()", "--monitor-interval", "0.1", "--max-restarts", "2"]


def started(folder: Path, fault: str, *options: str, name: str = "agent") -> Fork:
    folder.mkdir(parents=True, exist_ok=True)
    job = [*TORCHRUN, *options, str(TESTS / "workers" / "elastic_worker.py"), str(folder), fault]
    return Fork("torch", job, folder, {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, name)


def machines(folder: Path, fault: str) -> list[Fork]:
    """Start two agents, each with one worker, as on two machines; the first serves the store.

    They begin at the same moment, for the first takes part in the training alone if the other comes too late.
    """
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "job"]
    patience = "last_call_timeout=8,keep_alive_interval=1,keep_alive_max_attempt=5,join_timeout=90"
    options = ["--nnodes", "1:2", "--nproc-per-node", "1", "--local-addr", "127.0.0.1", *where]
    return [
        started(folder, fault, *options, "--rdzv-conf", f"is_host={int(number == 0)},{patience}", name=f"agent{number}")
        for number in range(2)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three jobs have run: nothing lost, a worker lost, a machine lost."""
    folder = tmp_path_factory.mktemp("elastic")
    one_machine = ["--standalone", "--nproc-per-node", "2"]
    jobs = machines(folder / "machine", "machine")
    jobs += [started(folder / name, name, *one_machine) for name in ("none", "worker")]
    deadline = time.monotonic() + 200
    try:
        statuses = [job.wait(max(0.0, deadline - time.monotonic())) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    outputs = "\n-----\n".join(job.output + job.errors for job in jobs)
    for name in ("none", "worker", "machine"):
        assert (folder / name / "found.json").exists(), f"{statuses}\n{outputs}"
    return folder


def found(folder: Path) -> Any:
    return json.loads((folder / "found.json").read_text())


def attempts(folder: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    timed = ("runtime", "per_second")
    return [{name: value for name, value in record.items() if not name.endswith(timed)} for record in history]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_worker_leads_to_a_run_that_ends_as_if_it_had_lived(folder: Path) -> None:
    plain, resumed = found(folder / "none"), found(folder / "worker")

    assert attempts(folder / "worker") == [{"step": 0, "processes": 2}, {"step": 6, "processes": 2}]
    assert resumed["weights"] == plain["weights"]
    assert without_times(resumed["history"]) == without_times(plain["history"])


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_lost_machine_leaves_a_run_on_fewer_processes_with_the_same_global_batches(folder: Path) -> None:
    plain, resumed = found(folder / "none"), found(folder / "machine")

    assert attempts(folder / "machine") == [{"step": 0, "processes": 2}, {"step": 6, "processes": 1}]
    np.testing.assert_allclose(resumed["weights"], plain["weights"], rtol=0, atol=1e-10)
    losses = [[record["loss"] for record in one["history"] if "loss" in record] for one in (plain, resumed)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_tracker_of_a_run_that_was_started_again_shows_no_step_twice(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "worker" / "runs")).Reload()

    shown = [(point.step, pytest.approx(point.value)) for point in events.Scalars("train/loss")]
    assert shown == [(r["step"], r["loss"]) for r in found(folder / "worker")["history"] if "loss" in r]


class Notes(dict[str, bytes]):
    """What outlives an attempt, without torchrun."""

    def set(self, name: str, text: str) -> None:
        self[name] = text.encode()

    def check(self, names: list[str]) -> bool:
        return all(name in self for name in names)

    def get(self, name: str) -> bytes:  # type: ignore[override]
        return self[name]


def test_only_what_the_job_itself_wrote_is_taken_for_its_earlier_attempt(make_trainer: Any, tmp_path: Path) -> None:
    def run(notes: Notes | None, *, is_first: bool = True, **values: Any) -> int:
        """Train as one attempt of a job, or as what comes next in it, and return the step at which it began."""
        if is_first:
            runs_begun.clear()
        began = Began()
        options = {"save_strategy": "steps", "save_steps": 3, "output_dir": str(tmp_path), "overwrite_output_dir": True}
        trainer = make_trainer(**{**options, **values}, callbacks=[began])
        trainer._engine.job_store = lambda: notes
        trainer.train()
        return began.step

    def another_job() -> None:
        """Leave a checkpoint of another job, the newest of the folder."""
        assert run(None, max_steps=9, output_dir=str(tmp_path / "elsewhere")) == 0
        shutil.rmtree(tmp_path / "checkpoint-9", ignore_errors=True)
        shutil.move(tmp_path / "elsewhere" / "checkpoint-9", tmp_path)

    notes = Notes()

    assert run(notes, max_steps=2, save_strategy="no") == 0
    another_job()
    assert run(notes, max_steps=5) == 0  # the first attempt had saved nothing
    another_job()
    assert run(notes, max_steps=7, overwrite_output_dir=False) == 5
    assert run(notes, is_first=False, max_steps=3) == 0  # a second run of the same script is not a second attempt
    assert run(notes, max_steps=7) == 7  # the third attempt: the first run was done, the second goes on
    assert run(notes, is_first=False, max_steps=6) == 3


class Began(TrainerCallback):
    step = -1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step = state.global_step
