"""Processes that need not import their framework, which takes seconds: they are forked from one that has.

They are for tests of what processes do together, or of one that is killed, not of how one starts, or of what objects do
when Python lets go of them at its end. A fork has a session, an environment, a folder and output of its own, and runs
its script as ``__main__``, with what ``atexit`` calls, to an end like any other's.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1]
CHECKPOINTS = ("jsonschema", "safetensors.numpy")
IMPORTED = {
    "torch": (
        *("torch", "torch.distributed", "torch._dynamo", "trackside.trainer.pytorch.trainer"),
        *(*CHECKPOINTS, "safetensors.torch"),
    ),
    "pages": (
        "torch",
        "trackside.trainer.pytorch.trainer",
        "sklearn.datasets",
        "trackside.cli.main",
        "trackside.testing",
        *(*CHECKPOINTS, "safetensors.torch"),
    ),
    "tensorflow": ("tensorflow", "keras", "trackside.trainer.tensorflow.trainer", *CHECKPOINTS),
}


class Fork:
    """A process, used like one of subprocess.Popen.

    Args:
        framework: What it need not import.
        arguments: A script or "-c" and code, and what follows in sys.argv.
        folder: Where it runs; its output goes to NAME.out and NAME.err there.
        environment: All of its variables, if not those of this process.
        name: See ``folder``.
        number: Processes of different numbers are forked from different ones, whose sets have different orders.
        terminals: Terminals (file descriptors) for its standard output and its errors, instead of files.
    """

    def __init__(
        self,
        framework: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] = os.environ,
        name: str = "process",
        number: int = 0,
        terminals: Sequence[int] = (),
    ) -> None:
        self.returncode: int | None = None
        self._files = [folder / f"{name}.{kind}" for kind in ("out", "err")]
        self._told, telling = os.pipe()
        opened = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        passed = [*(list(terminals) or [os.open(file, opened) for file in self._files]), telling]
        # W&B leaves the address of its own process there; that one keeps the id of a run whose process was killed
        own = {name: value for name, value in environment.items() if name != "WANDB_SERVICE"}
        request = {"arguments": list(arguments), "folder": str(folder), "environment": own}
        socket.send_fds(_fork_server(framework, number), [json.dumps(request).encode()], passed)
        for descriptor in passed:
            os.close(descriptor)
        self.pid = self._hear()

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._files[0].read_text()

    @property
    def errors(self) -> str:
        """What it has written to stderr."""
        return self._files[1].read_text()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return its exit status; None if it has not ended after that time."""
        if self.returncode is None and select.select([self._told], [], [], timeout_s)[0]:
            self.returncode = self._hear()
            os.close(self._told)
        return self.returncode

    def poll(self) -> int | None:
        """Return its exit status; None if it has not ended."""
        return self.wait(0.0)

    def send_signal(self, number: int) -> None:
        """Send a signal, to this process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, with all that it started."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(self.pid, signal.SIGKILL)

    def _hear(self) -> int:
        return array.array("i", os.read(self._told, 4))[0]


@functools.cache
def _fork_server(framework: str, number: int) -> socket.socket:
    """Start a process that imports a framework and forks on request; return the connection to it."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, str(TESTS / "support" / "fork_server.py"), str(its.fileno()), *IMPORTED[framework]],
        pass_fds=[its.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(number)},
    )
    its.close()
    atexit.register(server.wait)
    atexit.register(ours.close)  # which ends it, and comes first
    return ours
