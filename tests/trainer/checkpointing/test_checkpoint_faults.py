"""Checkpoints under fire: every file operation fails once, the disk fills up, the process is killed."""

from __future__ import annotations

import builtins
import contextlib
import errno
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.two_files import content_of, writer

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.checkpointing import store as checkpoint
from trackside.trainer.checkpointing.discovery import find_checkpoints, newest_valid
from trackside.trainer.checkpointing.manifest import verify
from trackside.trainer.checkpointing.store import CheckpointStore

ADDING = [(os, "fsync"), (os, "open"), (os, "mkdir"), (builtins, "open")]  # what a full disk refuses
OPERATIONS = [*ADDING, (os, "rename"), (os, "rmdir"), (os, "unlink")]


class Faults:
    """Lets the ``first``-th file operation fail, or from then on each that adds something; counts them."""

    def __init__(self, first, *, lasting=False, operations=None):
        self.first, self.lasting, self.count = first, lasting, 0
        self.operations = operations or (ADDING if lasting else OPERATIONS)

    @property
    def happened(self):
        return self.count >= self.first

    @contextlib.contextmanager
    def active(self):
        with pytest.MonkeyPatch.context() as patch:
            for module, name in self.operations:
                patch.setattr(module, name, self._faulty(getattr(module, name)))
            yield

    def _faulty(self, real):
        def call(*args, **kwargs):
            self.count += 1
            if self.count == self.first or (self.lasting and self.happened):
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with an older checkpoint of this run, which is the best, a newer one, and one of another run."""
    folder = tmp_path_factory.mktemp("template")
    CheckpointStore(folder, run_id="another").commit(9, writer("foreign"))
    for step in (1, 2):
        CheckpointStore(folder, run_id="run").commit(step, writer(str(step)))
    return folder


def copied(template, folder):
    return CheckpointStore(shutil.copytree(template, folder), run_id="run", save_total_limit=2)


def commit_under(faults, store, step):
    """Commit while file operations fail; return the error."""
    try:
        with faults.active():
            store.commit(step, writer("new"), best="checkpoint-1")
    except CheckpointError as error:
        return error
    return None


@pytest.mark.parametrize("way", ["exchange", "renames"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("step", [3, 2, 9], ids=["a new step", "its own step", "another's step"])
def test_whichever_file_operation_fails_nothing_that_was_there_is_lost(
    tmp_path, template, monkeypatch, way, lasting, step
):
    if way == "renames":
        monkeypatch.setattr(checkpoint, "exchange", lambda first, second: False)
    outcomes = []
    for first in range(1, 200):
        store = copied(template, tmp_path / str(first))
        faults = Faults(first, lasting=lasting)
        error = commit_under(faults, store, step)
        outcomes.append(failed := error is not None)
        if error:
            assert str(store.path(step)) in str(error)
            assert error.errno == errno.ENOSPC

        newest, skipped = newest_valid(store.output_dir)
        assert skipped == []
        assert content_of(newest) == ("2" if failed else "new")
        store.clean()
        assert not list(store.output_dir.glob(".*"))
        assert content_of(store.path(1)) == "1"
        if failed:
            assert content_of(store.path(2)) == "2"
            assert content_of(store.path(9)) == "foreign"
        assert "foreign" in {content_of(path) for path in store.output_dir.glob("checkpoint-9*")}
        if not faults.happened:
            break

    assert outcomes == sorted(outcomes, reverse=True)  # what fails after the commit does not undo it
    assert outcomes[0]
    assert not outcomes[-1]


@pytest.mark.parametrize("name", ["fsync", "mkdir", "rename", "open"])
def test_a_failed_commit_leaves_no_temporary_folder(tmp_path, template, name):
    operation = (builtins if name == "open" else os, name)  # os.open is what cleaning up needs
    for first in range(1, 50):
        store = copied(template, tmp_path / str(first))
        before = sorted(os.listdir(store.output_dir))
        if commit_under(Faults(first, operations=[operation]), store, 3) is None:
            break
        assert sorted(os.listdir(store.output_dir)) == before
    assert first > 1


OPERATION = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 6), st.none() | st.integers(1, 6)),
    st.tuples(st.just("fail"), st.integers(1, 6), st.integers(1, 40), st.booleans()),
    st.tuples(st.just("foreign"), st.integers(1, 6)),
    st.tuples(st.just("reopen")),
)


class Model:
    """What must hold, kept beside a real store."""

    def __init__(self, folder, limit):
        self.folder, self.limit, self.serial = folder, limit, 0
        self.last: str | None = None
        self.best: tuple[int, str] | None = None
        self.foreign: set[str] = set()
        self.contents: dict[int, str] = {}
        self.reopen()

    def reopen(self):
        self.store = CheckpointStore(self.folder, run_id="run", save_total_limit=self.limit)
        self.store.clean()
        assert not list(self.folder.glob(".*"))

    def commit(self, step, best):
        self._commit(self.store, step, best if best in self.contents else None)
        ours = [path for path in find_checkpoints(self.folder) if verify(path)["run_id"] == "run"]
        assert len(ours) <= max(self.limit, 2)

    def fail(self, step, first, lasting):
        with contextlib.suppress(CheckpointError):
            self._commit(self.store, step, self.best[0] if self.best else None, Faults(first, lasting=lasting).active())

    def foreign_commit(self, step):
        if not self.store.path(step).exists():
            self._commit(CheckpointStore(self.folder, run_id="another"), step, None)
            self.foreign.add(self.last)

    def _commit(self, store, step, best, faults=None):
        self.serial += 1
        content = f"{self.serial}."
        with faults or contextlib.nullcontext():  # what follows only looks, and is spared
            store.commit(step, writer(content), best=None if best is None else store.path(best))
        self.last = content
        self.contents = {
            int(path.name.split("-")[1]): (path / "weights").read_text()
            for path in self.folder.glob("checkpoint-?")
            if verify(path)["run_id"] == "run"
        }
        self.best = None if best is None or store is not self.store else (best, self.contents[best])

    def check(self):
        newest, skipped = newest_valid(self.folder)
        assert skipped == []
        assert (newest and content_of(newest)) == self.last
        if self.best is not None:
            assert content_of(self.store.path(self.best[0])) == self.best[1]
        there = {content_of(path) for path in self.folder.glob("checkpoint-*")}
        assert self.foreign <= there


@settings(max_examples=40, deadline=None)
@given(operations=st.lists(OPERATION, max_size=12), limit=st.integers(1, 3), can_exchange=st.booleans())
@example(operations=[("commit", 2, None), ("fail", 1, 27, False), ("commit", 1, 2)], limit=1, can_exchange=False)
def test_no_sequence_of_commits_failures_and_restarts_loses_the_newest_the_best_or_anothers(
    tmp_path_factory, operations, limit, can_exchange
):
    with pytest.MonkeyPatch.context() as patch:
        if not can_exchange:
            patch.setattr(checkpoint, "exchange", lambda first, second: False)
        model = Model(tmp_path_factory.mktemp("store"), limit)
        actions = {"commit": model.commit, "fail": model.fail, "foreign": model.foreign_commit, "reopen": model.reopen}
        for name, *values in operations:
            actions[name](*values)
            model.check()
        model.reopen()
        model.check()


COMMITS = """
import sys
from trackside.trainer.checkpointing import store as checkpoint

folder, start, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if way == "renames":
    checkpoint.exchange = lambda first, second: False
store = checkpoint.CheckpointStore(folder, run_id="run", save_total_limit=2)
store.clean()
for count in range(start, start + 100_000):
    def write(folder):
        (folder / "weights").write_text(f"{count}.")
        (folder / "shards").mkdir()
        (folder / "shards" / "0").write_text(f"{count}." * 100)

    store.commit(count // 2, write)  # every second one replaces the one before
    print(count, flush=True)
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_process_killed_at_any_moment_leaves_its_last_commit_or_the_one_it_was_making(tmp_path, way):
    count, chance, seen = 0, random.Random(way), 0
    for _ in range(12):
        command = [sys.executable, "-c", COMMITS, str(tmp_path), str(count), way]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(chance.randint(1, 4)):  # so many commits at least, however slow the machine
                line = process.stdout.readline()
                seen += 1
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
            rest = process.stdout.read()
        last = int(rest.rstrip("\n").rsplit("\n", 1)[-1] or line)

        newest, skipped = newest_valid(tmp_path)
        assert skipped == []
        assert content_of(newest) in (f"{last}.", f"{last + 1}.")
        count = int(content_of(newest).rstrip(".")) + 1

    store = CheckpointStore(tmp_path, run_id="run", save_total_limit=2)
    store.clean()
    assert all(path.name.startswith("checkpoint-") and "." not in path.name for path in tmp_path.iterdir())
    assert count >= seen
