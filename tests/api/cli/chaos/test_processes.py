"""Signals that end chaos end its job first; real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trackside.cli.chaos.processes import noted_stops

JOB = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "120"], start_new_session=True)  # as torchrun starts its workers
new = pathlib.Path(sys.argv[1] + ".new")
new.write_text(f"{os.getpid()} {child.pid}")
new.rename(sys.argv[1])
time.sleep(120)
"""

CHAOS = "import sys; from trackside.cli.main import main; sys.exit(main(sys.argv[1:]))"


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes in other groups are found in /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_that_ends_chaos_ends_all_processes_of_its_job(name, tmp_path):
    pids, number = tmp_path / "pids", getattr(signal, name)
    command = [sys.executable, "-c", CHAOS, "chaos", "--folder", str(tmp_path / "runs"), "--"]
    chaos = subprocess.Popen([*command, sys.executable, "-c", JOB, str(pids)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not pids.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job = [int(word) for word in pids.read_text().split()]

    chaos.send_signal(number)
    said, _ = chaos.communicate(timeout=30)

    assert chaos.returncode == 128 + number
    assert said.splitlines()[-1] == f"stopped, and the job with it; what it wrote is in {tmp_path / 'runs'}"
    assert not any(map(is_alive, job))


def stopped_by(*numbers: int) -> None:
    with noted_stops() as stops:
        for number in numbers:
            os.kill(os.getpid(), number)
        assert stops == [signal.SIGTERM]


def test_a_signal_that_is_ignored_stays_so_and_handlers_are_given_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)]

        with pytest.raises(SystemExit) as raised:
            stopped_by(signal.SIGHUP, signal.SIGTERM)

        assert raised.value.code == 128 + signal.SIGTERM
        assert handlers == [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)]
    finally:
        signal.signal(signal.SIGHUP, before)
