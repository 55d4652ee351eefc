from __future__ import annotations

import shutil

import pytest

from trackside.trainer.checkpointing.discovery import find_checkpoints, newest_valid
from trackside.trainer.checkpointing.remote import get_last_checkpoint
from trackside.trainer.checkpointing.store import CheckpointStore


def write(folder):
    (folder / "weights").write_text("weights")


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "out", run_id="run")


def bare(folder):
    """What transformers leaves: files and no manifest."""
    folder.mkdir(parents=True)
    write(folder)


def names(folder):
    return [path.name for path in find_checkpoints(folder)]


def test_a_folder_that_is_empty_or_not_there_holds_none(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        assert find_checkpoints(folder) == []
        assert newest_valid(folder) == (None, [])
        assert get_last_checkpoint(folder) is None


def test_the_order_is_that_of_the_commits_not_of_the_steps(store):
    for step in (30, 4, 200, 5):
        store.commit(step, write)

    assert names(store.output_dir) == ["checkpoint-30", "checkpoint-4", "checkpoint-200", "checkpoint-5"]
    assert get_last_checkpoint(store.output_dir) == str(store.path(5))


def test_commits_follow_each_other_even_when_the_clock_is_set_back(store, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 2_000)
    store.commit(1, write)
    monkeypatch.setattr("time.time_ns", lambda: 1_000)
    CheckpointStore(store.output_dir, run_id="another").commit(3, write)
    store.commit(2, write)

    assert names(store.output_dir) == ["checkpoint-1", "checkpoint-3", "checkpoint-2"]


def test_folders_without_a_manifest_come_by_step(tmp_path, store):
    for step in (100, 20, 3):
        bare(tmp_path / f"checkpoint-{step}")
    assert names(tmp_path) == ["checkpoint-3", "checkpoint-20", "checkpoint-100"]

    for step in (10, 30):
        store.commit(step, write)
    for step in (5, 20, 40):
        bare(store.path(step))
    assert names(store.output_dir) == [f"checkpoint-{step}" for step in (5, 10, 20, 30, 40)]


def test_only_folders_with_the_name_of_a_checkpoint_are_found(store):
    store.commit(1, write)
    for name in (
        "checkpoint-",
        "checkpoint-x",
        "checkpoint-2.bak",
        "my-checkpoint-3",
        ".checkpoint-4.tmp-1-abc",
        "runs",
    ):
        (store.output_dir / name).mkdir()
    (store.output_dir / "checkpoint-5").write_text("a file")

    assert names(store.output_dir) == ["checkpoint-1"]


def test_a_folder_set_aside_is_found_while_nothing_has_its_name(store):
    aside = store.output_dir / "checkpoint-1.replaced-99-abcd"
    store.commit(1, write)
    store.path(1).rename(aside)
    assert newest_valid(store.output_dir) == (aside, [])

    store.commit(1, write)

    assert names(store.output_dir) == ["checkpoint-1"]


def test_what_does_not_verify_is_skipped_with_the_reason_newest_first(store):
    for step in range(1, 6):
        store.commit(step, write)
    (store.path(2) / "weights").write_text("wEights")
    (store.path(3) / "weights").write_text("weigh")
    (store.path(4) / "weights").unlink()
    (store.path(5) / "manifest.json").unlink()

    path, skipped = newest_valid(store.output_dir)

    assert path == store.path(1)
    assert [(item.path, item.reason) for item in skipped] == [
        (store.path(5), "has no manifest (manifest.json)"),
        (store.path(4), "lacks weights"),
        (store.path(3), "has 5 bytes in weights, its manifest says 7"),
        (store.path(2), "has other content in weights than was written (SHA-256 differs)"),
    ]


def test_checkpoints_of_transformers_are_listed_and_skipped_for_want_of_a_manifest(tmp_path):
    bare(tmp_path / "checkpoint-500")

    path, skipped = newest_valid(tmp_path)

    assert path is None
    assert [item.reason for item in skipped] == ["has no manifest (manifest.json)"]
    assert get_last_checkpoint(str(tmp_path)) is None


def test_a_checkpoint_that_a_living_run_deletes_while_it_is_read_gives_way_to_its_newer_one(store, monkeypatch):
    from trackside.trainer.checkpointing import discovery as found

    store.commit(1, write)
    real = found.verify

    def verify_slowly(path):
        if path == store.path(1):
            store.commit(2, write)
            shutil.rmtree(store.path(1))
        return real(path)

    monkeypatch.setattr(found, "verify", verify_slowly)

    assert newest_valid(store.output_dir) == (store.path(2), [])
