"""One start of a job, with real processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from trackside.cli.chaos.instants import SAVE, START, UPDATE, Instant
from trackside.cli.chaos.launch import Ended, Watch, run_until

SAVES = """
import os, pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[1])
out.mkdir()
(out / ".trackside.lock").write_text("x")
child = subprocess.Popen(["sleep", "60"])
(out / "child").write_text(str(child.pid))
new = out / ".checkpoint-3.tmp-1-0123456789abcdef"
new.mkdir()
(new / "file").write_text("content")
time.sleep(float(sys.argv[2]))
new.rename(out / "checkpoint-3")
time.sleep(0.2)
"""


def ended(folder: Path, pause_s: float, instant: Instant | None = None, limit_s: float | None = None) -> Ended:
    watch = Watch(folder / "out", folder / "kept", None)
    command = [sys.executable, "-c", SAVES, str(folder / "out"), str(pause_s)]
    return run_until(command, {}, watch, folder / "log", instant, limit_s)


def is_alive(folder: Path) -> bool:
    status = Path(f"/proc/{(folder / 'out' / 'child').read_text()}/stat")
    time.sleep(0.1)
    return status.exists() and status.read_text().split()[2] != "Z"


def test_a_job_is_killed_inside_a_save_with_the_processes_that_it_started(tmp_path):
    found = ended(tmp_path, 30.0, Instant(0.05, SAVE))

    assert found.code is None
    assert found.is_in_save
    assert not is_alive(tmp_path)
    assert not any((tmp_path / "kept").iterdir())


def test_a_job_that_ends_by_itself_keeps_its_checkpoints(tmp_path):
    found = ended(tmp_path, 0.1)

    assert (found.code, found.is_in_save, found.is_hung) == (0, False, False)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["checkpoint-3"]
    assert (tmp_path / "kept" / "checkpoint-3" / "file").stat().st_nlink == 2
    assert 0.05 < found.saves[0] < 5
    assert not is_alive(tmp_path)


def test_a_job_that_hangs_is_killed_at_the_limit(tmp_path):
    found = ended(tmp_path, 30.0, limit_s=1.5)

    assert found.is_hung
    assert found.code is None


def test_a_later_start_is_not_taken_for_begun_by_what_an_earlier_one_left(tmp_path):
    lock = tmp_path / ".trackside.lock"
    lock.write_text("old")
    trace = tmp_path / "trace.jsonl"
    trace.write_text("{}\n{}\n")
    watch = Watch(tmp_path, tmp_path / "kept", trace)
    watch.look()
    assert watch.seen == {START: [], UPDATE: [], SAVE: []}

    lock.write_text("new")
    os.utime(lock, ns=(1, 10**18))
    with trace.open("a") as file:
        file.write("{}\n")
    watch.look()

    assert [len(watch.seen[name]) for name in (START, UPDATE, SAVE)] == [1, 1, 0]
