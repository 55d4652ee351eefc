from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.two_files import content_of, writer

from trackside.callbacks.errors import ArgumentError, CheckpointError
from trackside.trainer.checkpointing import store as checkpoint
from trackside.trainer.checkpointing.discovery import newest_valid
from trackside.trainer.checkpointing.manifest import verify
from trackside.trainer.checkpointing.names import tag_of
from trackside.trainer.checkpointing.store import CheckpointStore, surplus

DEAD = 2**22 + 1  # above the largest process number of Linux


@pytest.fixture(params=["exchange", "renames"])
def way(request, monkeypatch):
    """Both ways of replacing a folder: in one step, and in two where the file system has no such step."""
    if request.param == "renames":
        monkeypatch.setattr(checkpoint, "exchange", lambda first, second: False)
    return request.param


@pytest.fixture
def store(tmp_path, way):
    return CheckpointStore(tmp_path / "runs" / "out", run_id="run")


def listing(store):
    return sorted(os.listdir(store.output_dir))


# -- committing ---------------------------------------------------------------------------------------------------


def test_a_commit_makes_a_folder_that_verifies_and_leaves_nothing_else(store):
    path = store.commit(500, writer("a"))

    assert path == store.path(500) == store.output_dir / "checkpoint-500"
    assert verify(path)["run_id"] == "run"
    assert content_of(path) == "a"
    assert listing(store) == ["checkpoint-500"]


def test_a_store_touches_nothing_before_the_first_commit(tmp_path):
    store = CheckpointStore(tmp_path / "out", run_id="run")

    assert store.clean() == []
    assert list(tmp_path.iterdir()) == []


def test_everything_is_on_the_disk_before_it_gets_its_name_and_before_anything_is_deleted(store, monkeypatch):
    store.save_total_limit = 1
    store.commit(1, writer("old"))
    log = []

    def record(name, path_of):
        real = getattr(os, name)

        def call(*args, **kwargs):
            log.append((name, path_of(*args)))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    record("fsync", lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))
    record("rename", lambda source, target: str(target))
    record("unlink", lambda path: str(path))
    store.commit(2, writer("new"))

    synced = [path for name, path in log[: log.index(("rename", str(store.path(2))))] if name == "fsync"]
    endings = [os.path.relpath(path, os.path.dirname(synced[-1])).split("/", 1)[1:] for path in synced]
    assert endings == [["weights"], ["shards/0"], ["manifest.json"], ["shards"], []] or endings == [
        ["shards/0"],
        ["weights"],
        ["manifest.json"],
        ["shards"],
        [],
    ]
    after = log[log.index(("rename", str(store.path(2)))) + 1 :]
    assert after[0] == ("fsync", str(store.output_dir))
    assert {name for name, _ in after[1:]} == {"rename", "unlink"}
    assert listing(store) == ["checkpoint-2"]


def test_a_folder_of_the_same_step_is_replaced(store):
    store.commit(5, writer("first"))

    store.commit(5, writer("second"))

    assert content_of(store.path(5)) == "second"
    assert listing(store) == ["checkpoint-5"]


@pytest.mark.parametrize("origin", ["another run", "transformers", "a file", "a link"])
def test_what_another_wrote_at_that_step_is_set_aside_and_never_deleted(store, tmp_path, origin):
    elsewhere = CheckpointStore(tmp_path / "elsewhere", run_id="run").commit(5, writer("foreign"))
    store.output_dir.mkdir(parents=True)
    if origin == "another run":
        CheckpointStore(store.output_dir, run_id="another").commit(5, writer("foreign"))
    elif origin == "transformers":
        store.path(5).mkdir()
        (store.path(5) / "weights").write_text("foreign")
    elif origin == "a file":
        store.path(5).write_text("foreign")
    else:
        store.path(5).symlink_to(elsewhere)

    for _ in range(2):
        store.commit(5, writer("ours"))
        store.clean()

    aside, kept = sorted(store.output_dir.iterdir(), key=lambda path: -len(path.name))
    assert aside.name.startswith(f"checkpoint-5.replaced-{os.getpid()}-")
    assert (aside if origin == "a file" else aside / "weights").read_text() == "foreign"
    assert content_of(kept) == "ours"
    assert content_of(elsewhere) == "foreign"
    assert newest_valid(store.output_dir) == (store.path(5), [])


@pytest.mark.parametrize("error", [ValueError("no such layer"), OSError(28, "No space left on device"), MemoryError()])
def test_a_failed_write_leaves_everything_old_and_names_path_and_cause(store, error):
    def write(folder):
        (folder / "weights").write_text("half")
        raise error

    store.commit(1, writer("old"))
    for step in (1, 2):
        with pytest.raises(CheckpointError) as caught:
            store.commit(step, write)
        assert f"{store.path(step)} could not be written: {type(error).__name__}" in str(caught.value)
        assert caught.value.__cause__ is error
        assert caught.value.errno == getattr(error, "errno", None)

    assert listing(store) == ["checkpoint-1"]
    assert content_of(store.path(1)) == "old"


def test_an_interrupt_cleans_up_and_stays_an_interrupt(store):
    def write(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.commit(1, write)

    assert listing(store) == []


# -- rotation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(tmp_path, limit):
    with pytest.raises(ArgumentError, match=f"save_total_limit={limit} is not allowed: at least 1, or None"):
        CheckpointStore(tmp_path, run_id="run", save_total_limit=limit)


@pytest.mark.parametrize(
    ("limit", "left"), [(None, [1, 2, 3, 4, 5]), (9, [1, 2, 3, 4, 5]), (3, [2, 4, 5]), (2, [2, 5]), (1, [2, 5])]
)
def test_the_newest_and_the_best_remain_and_the_oldest_go_first(tmp_path, limit, left):
    store = CheckpointStore(tmp_path, run_id="run", save_total_limit=limit)

    for step in range(1, 6):
        store.commit(step, writer(str(step)), best=f"somewhere/checkpoint-{2 if step > 1 else 1}")

    assert listing(store) == [f"checkpoint-{step}" for step in left]


def test_rotation_counts_and_deletes_only_what_this_run_wrote(tmp_path):
    CheckpointStore(tmp_path, run_id="another").commit(1, writer("foreign"))
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "notes").mkdir()
    store = CheckpointStore(tmp_path, run_id="run", save_total_limit=2)

    for step in range(3, 8):
        store.commit(step, writer("ours"))

    assert listing(store) == ["checkpoint-1", "checkpoint-2", "checkpoint-6", "checkpoint-7", "notes"]


def test_a_deletion_that_fails_is_a_warning_and_the_commit_stands(tmp_path, monkeypatch, caplog):
    store = CheckpointStore(tmp_path, run_id="run", save_total_limit=1)
    store.commit(1, writer("old"))

    def refuse(path, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        assert content_of(store.commit(2, writer("new"))) == "new"

    assert f"{store.path(1)} could not be deleted: PermissionError" in caplog.text
    assert len(store.clean()) == 1
    assert listing(store) == ["checkpoint-2"]


@given(
    steps=st.lists(st.integers(1, 50), unique=True),
    limit=st.integers(1, 10),
    keep=st.sets(st.integers(1, 50)),
)
def test_surplus_takes_the_oldest_it_may_and_no_more_than_it_must(steps, limit, keep):
    folders = [Path(f"checkpoint-{step}") for step in steps]
    kept_names = {f"checkpoint-{step}" for step in keep}

    gone = surplus(folders, limit, kept_names)
    left = [path for path in folders if path not in gone]

    assert gone == [path for path in folders if path.name not in kept_names][: len(gone)]
    assert len(left) == max(min(limit, len(folders)), sum(path.name in kept_names for path in folders))


# -- cleaning -----------------------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_removed_and_that_of_another_run_is_not(store):
    store.commit(1, writer("a"))
    tag, foreign_tag = tag_of(store.run_id), tag_of("another")
    names = [f".checkpoint-{step}.tmp-{pid}-{tag}0123" for step, pid in ((2, DEAD), (3, os.getpid()))]
    foreign = f".checkpoint-2.tmp-{DEAD}-{foreign_tag}0123"
    for name in (*names, foreign):
        (store.output_dir / name).mkdir()
        writer("half")(store.output_dir / name)

    removed = store.clean()

    assert [path.name for path in removed] == names
    assert listing(store) == [foreign, "checkpoint-1"]


def test_a_former_checkpoint_gets_its_name_back_unless_its_successor_has_it(store):
    store.commit(1, writer("only one"))
    store.path(1).rename(store.output_dir / f"checkpoint-1.replaced-{DEAD}-ab")
    store.commit(2, writer("former"))
    store.path(2).rename(store.output_dir / f"checkpoint-2.replaced-{DEAD}-ab")
    store.commit(2, writer("successor"))

    removed = store.clean()

    assert [path.name for path in removed] == [f"checkpoint-2.replaced-{DEAD}-ab"]
    assert listing(store) == ["checkpoint-1", "checkpoint-2"]
    assert content_of(store.path(1)) == "only one"
    assert content_of(store.path(2)) == "successor"


WAITS = """
import sys
from trackside.trainer.checkpointing.store import CheckpointStore

def write(folder):
    print("writing", flush=True)
    sys.stdin.read()

CheckpointStore(sys.argv[1], run_id="run").commit(7, write)
"""


def test_what_a_living_process_writes_is_left_until_it_is_dead(store):
    command = [sys.executable, "-c", WAITS, store.output_dir]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        assert store.clean() == []
        assert len(listing(store)) == 1

        process.kill()
        process.wait()

    assert [path.name.split("-")[1] for path in store.clean()] == ["7.tmp"]
    assert listing(store) == []


def test_what_this_process_is_writing_is_left(store):
    def write(folder):
        writer("a")(folder)
        assert store.clean() == []

    assert content_of(store.commit(1, write)) == "a"
