"""``save_on_each_node``: two machines with a disk each write the same checkpoints, and go on from the same one."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import BATCHES, FakeCheckpoint, FakeEngine, FakeTrainer
from support.fake_group import FakeGroup

from trackside.callbacks.errors import ArgumentError, CheckpointError, RankError
from trackside.trainer.checkpointing.choosing import choice

RANKS, ON_EACH = 4, 2
"""Processes of the job, and of each machine."""


@pytest.fixture
def disks(tmp_path: Path) -> list[Path]:
    """The output folders of the two machines."""
    return [tmp_path / "a" / "out", tmp_path / "b" / "out"]


def run(disks: list[Path], resume: Any = None, fault: Any = lambda *place: None, **args: Any) -> list[Any]:
    """Train on all ranks; return of each the step that it began at and the one that it ended at, or its error."""

    def rank(collectives: Any) -> Any:
        node, local_rank = divmod(collectives.rank, ON_EACH)
        trainer = FakeTrainer(
            collectives,
            disks[node],
            sizes=[1] * BATCHES,
            fault=fault,
            steers={},
            local_rank=local_rank,
            **{"save_on_each_node": True, "max_steps": 4, **args},
        )
        begun = []
        trainer.on("on_train_begin")(lambda _, state: begun.append(state.global_step))
        trainer.train(resume_from_checkpoint=resume(disks[node]) if callable(resume) else resume)
        return begun[0], trainer.state.global_step

    return FakeGroup(RANKS, timeout_s=20.0).run(rank)


def files_of(disk: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(disk)): path.read_bytes()
        for path in sorted(disk.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_each_machine_has_the_checkpoints_of_the_first_process(disks):
    ended = run(disks)

    assert ended == [(0, 4)] * RANKS
    assert {path.name for path in disks[1].iterdir()} >= {"checkpoint-2", "checkpoint-4"}
    assert {n: c for n, c in files_of(disks[0]).items() if n.startswith("checkpoint-")} == files_of(disks[1])


@pytest.mark.parametrize("lacks", [None, 0, 1])
def test_all_machines_go_on_from_the_newest_checkpoint_that_each_of_them_has(disks, lacks):
    run(disks)
    if lacks is not None:
        shutil.rmtree(disks[lacks] / "checkpoint-4")

    ended = run(disks, resume=True, max_steps=6)

    assert ended == [(4 if lacks is None else 2, 6)] * RANKS
    assert all((disk / "checkpoint-6").is_dir() for disk in disks)


def test_a_damaged_checkpoint_of_one_machine_is_passed_over_by_all(disks):
    run(disks)
    (disks[1] / "checkpoint-4" / "progress.json").write_text("{}")

    assert run(disks, resume=True, max_steps=6) == [(2, 6)] * RANKS


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_best_model_is_read_from_each_disk_or_the_last_weights_stay_on_all(disks, monkeypatch, is_damaged, caplog):
    read = []
    monkeypatch.setattr(FakeCheckpoint, "load_weights", lambda self, contents: read.append(contents.path))
    best = {"load_best_model_at_end": True, "metric_for_best_model": "size", "greater_is_better": True}
    run(disks, max_steps=2, **best)
    read.clear()

    def damage(*place: Any) -> None:
        if is_damaged and (disks[1] / "checkpoint-4").exists():
            (disks[1] / "checkpoint-2" / "progress.json").write_text("{}")

    ended = run(disks, resume=True, fault=damage, max_steps=6, **best)

    assert ended == [(2, 6)] * RANKS
    assert sorted(read) == ([] if is_damaged else sorted(disk / "checkpoint-2" for disk in disks * ON_EACH))
    assert ("the last weights stay" in caplog.text) == is_damaged


def test_a_checkpoint_that_is_named_is_read_from_the_disk_of_each_machine(disks):
    run(disks)

    assert run(disks, resume=lambda disk: disk / "checkpoint-2", max_steps=6) == [(2, 6)] * RANKS


def test_a_machine_that_was_replaced_is_named(disks):
    run(disks)
    shutil.rmtree(disks[1])

    for ended in run(disks, resume=True, max_steps=6):
        assert isinstance(ended, CheckpointError)
        assert "checkpoint-4 of run" in str(ended)
        assert "on the machine of rank 0, nothing on the machine of rank 2. Copy the folder" in str(ended)


def test_checkpoints_of_two_runs_are_not_mixed(disks, tmp_path):
    run(disks)
    others = [tmp_path / "c", tmp_path / "d"]
    run(others)

    for ended in run([disks[0], others[1]], resume=True, max_steps=6):
        assert isinstance(ended, CheckpointError)
        assert "do not hold the same checkpoint" in str(ended)


def test_checkpoints_that_one_machine_has_of_another_run_are_refused_by_all(disks):
    run([disks[0], disks[1].with_name("earlier")])

    ended = run(disks)

    assert isinstance(ended[0], ArgumentError)
    assert "it holds checkpoints of another run" in str(ended[0])
    assert all(isinstance(error, RankError) and str(ended[0]) in str(error) for error in ended[1:])


class Notes(dict):
    """What the launcher keeps of a job."""

    set, check = dict.__setitem__, lambda self, names: all(name in self for name in names)

    def get(self, name):
        return self[name].encode()


class OfEachThread(threading.local):
    """A counter as each process has one; the ranks of these tests are threads."""

    def __init__(self):
        self.counts = Counter()

    def __getitem__(self, key):
        return self.counts[key]

    def __setitem__(self, key, value):
        self.counts[key] = value


def test_a_job_that_is_started_again_goes_on_from_what_all_machines_have(disks, monkeypatch):
    notes = Notes()
    monkeypatch.setattr(FakeEngine, "job_store", lambda self: notes)
    monkeypatch.setattr(choice, "runs_begun", OfEachThread())
    run(disks)
    shutil.rmtree(disks[0] / "checkpoint-4")

    assert run(disks, overwrite_output_dir=True, max_steps=6) == [(2, 6)] * RANKS


def test_old_checkpoints_are_deleted_on_each_machine(disks):
    run(disks, save_total_limit=1, max_steps=8)

    for disk in disks:
        assert [path.name for path in disk.glob("checkpoint-*")] == ["checkpoint-8"]


def test_an_overwritten_folder_is_replaced_on_each_machine(disks):
    run(disks)

    run(disks, overwrite_output_dir=True, max_steps=2)

    for disk in disks:
        assert [path.name for path in disk.glob("checkpoint-*")] == ["checkpoint-2"]


def test_on_one_machine_it_has_no_effect(tmp_path):
    def rank(collectives: Any) -> Any:
        trainer = FakeTrainer(
            collectives,
            tmp_path / "out",
            sizes=[1] * BATCHES,
            fault=lambda *place: None,
            steers={},
            save_on_each_node=True,
            max_steps=4,
            fsdp="full_shard",
        )
        trainer.train()
        return trainer.args.should_save

    assert FakeGroup(2, timeout_s=20.0).run(rank) == [True, False]
    assert (tmp_path / "out" / "checkpoint-4").is_dir()


@pytest.mark.parametrize(
    ("args", "reason"),
    [({"fsdp": "full_shard"}, "False with fsdp"), ({"remote": True}, "an output_dir that is an address")],
)
def test_what_machines_cannot_write_each_on_its_own_is_refused_on_all(disks, args, reason):
    if args.pop("remote", False):
        pytest.importorskip("fsspec")
        disks = ["memory://nodes/out"] * 2

    for ended in run(disks, **args):
        assert isinstance(ended, ArgumentError)
        assert f"save_on_each_node=True is not allowed: {reason}" in str(ended).replace("False with an", "an")
