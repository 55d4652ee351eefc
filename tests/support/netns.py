"""Two machines out of one: network namespaces with a cable between them, and torchrun on each."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.ranks import TESTS, Ended, _result

ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29400  # no other process is in these networks


class Machines:
    """Two namespaces that are joined by a veth pair and see nothing else.

    Skips the test where namespaces are not there, with the reason.
    """

    def __init__(self) -> None:
        self.ip = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if self.ip is None:
            pytest.skip("there is no `ip` (Debian: iproute2) to make network namespaces with")
        self.names = [f"ts{secrets.token_hex(4)}{letter}" for letter in "ab"]
        self.cables = [f"{name}v" for name in self.names]
        self.jobs: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Machines:
        try:
            for name in self.names:
                self._ip("netns", "add", name)
            peer = ("type", "veth", "peer", "name", self.cables[1], "netns", self.names[1])
            self._ip("link", "add", self.cables[0], "netns", self.names[0], *peer)
            for name, cable, address in zip(self.names, self.cables, ADDRESSES, strict=True):
                self._ip("-n", name, "address", "add", f"{address}/24", "dev", cable)
                self._ip("-n", name, "link", "set", "lo", "up")
                self._ip("-n", name, "link", "set", cable, "up")
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
        return self

    def __exit__(self, *details: Any) -> None:
        for number, name in enumerate(self.names):
            if Path(f"/run/netns/{name}").exists():
                self.kill(number)
                subprocess.run([str(self.ip), "netns", "delete", name], capture_output=True, check=False)
        for job in self.jobs:
            job.communicate()

    def _ip(self, *words: str) -> str:
        return subprocess.run([str(self.ip), *words], check=True, capture_output=True, text=True).stdout

    def torchrun(self, folder: Path, script: str, *names: str) -> None:
        """Start ``script FOLDER NAME...`` on each machine, one process under one torchrun, with a disk at /mnt."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, cable, address) in enumerate(zip(self.names, self.cables, ADDRESSES, strict=True)):
            launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
            launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--rdzv-id", "test"]
            disk = folder / f"disk{number}"
            disk.mkdir(exist_ok=True)
            mounted = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /mnt && exec "$@"', str(disk)]
            # both have the host name of the one real machine, which says nothing about their addresses
            launcher += ["--local-addr", address, "--rdzv-conf", f"is_host={number == 0}"]
            self.jobs.append(
                subprocess.Popen(
                    [
                        str(self.ip),
                        "netns",
                        "exec",
                        name,
                        *mounted,
                        *launcher,
                        str(TESTS / "workers" / script),
                        str(folder),
                        *names,
                    ],
                    env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": cable},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    cwd=folder,
                )
            )
        self.folder = folder

    def are_running(self) -> bool:
        """Whether no torchrun has ended."""
        return all(job.poll() is None for job in self.jobs)

    def kill(self, number: int) -> None:
        """Kill everything that runs on a machine, as when its power fails."""
        for process in self.processes(number):
            os.kill(process, signal.SIGKILL)

    def processes(self, number: int) -> list[int]:
        """Return the processes that run on a machine: torchrun, and what it started."""
        return [int(process) for process in self._ip("netns", "pids", self.names[number]).split()]

    def pull_cable(self) -> None:
        """Cut the connection without a word to either end."""
        self._ip("-n", self.names[0], "link", "set", self.cables[0], "down")

    def wait(self, number: int, timeout_s: float = 120.0) -> Ended:
        """Return how torchrun ended on a machine, and what its process wrote down."""
        try:
            output = self.jobs[number].communicate(timeout=timeout_s)[0]
        except subprocess.TimeoutExpired:
            self.kill(number)
            raise AssertionError(f"machine {number} hangs:\n{self.jobs[number].communicate()[0]}") from None
        return Ended(self.jobs[number].returncode, output, _result(self.folder / f"rank{number}.json"))
