"""Start-up messages of TensorFlow: those that tell of nothing to be done are left out of the command's output.

TensorFlow writes them to file descriptor 2 while it is imported, before any setting of its log is read. For that time
the descriptor is a pipe to another process, this file run as a program, which passes on every line that it does not
know, at once. It outlives a crash of the import; if the import does not succeed, it passes on the other lines, too.
"""

from __future__ import annotations

import importlib.machinery
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from typing import Any

VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
"""If the user has set it, nothing is left out but what it says."""

WITHOUT_INFORMATION = "1"

NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
"""Devices of which one exists where an NVIDIA GPU can be used."""

SUCCEEDED = b"\0the import has succeeded\n"
"""The last line in the pipe, after an import that has succeeded."""

WHEN = rb"(?:\d{4}-\d\d-\d\d [\d:.]+: )?"
"""How a line begins in older versions."""

NOISE = re.compile(
    rb"|".join(
        (
            rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
            rb"To enable the following instructions: .* rebuild TensorFlow with the appropriate compiler flags\.",
            WHEN + rb"I(?:\d{4} [\d:.]+ +\d+ [\w.]+\.cc:\d+\]| \S+\.cc:\d+\]).*",
            WHEN + rb"[WE].*\.cc:\d+\] Unable to register cu\w+ factory: .* already been registered",
            WHEN + rb"[WE].*\.cc:\d+\] computation placer already registered.*",
        )
    )
)
"""Lines that tell of nothing to be done: information, and what is registered twice."""

WITHOUT_GPU = re.compile(WHEN + rb"E.*\.cc:\d+\] failed call to cuInit: .*")
"""Lines that tell of nothing to be done where there is no GPU of NVIDIA."""

ABOUT_GPU = re.compile(WHEN + rb"I.*GPU will not be used.*")
"""Information that is passed on where there is a GPU of NVIDIA, since it says why TensorFlow does not use it."""


@contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Return a context within which an import of TensorFlow, whatever imports it, does not write its usual messages."""
    if os.name != "posix" or "tensorflow" in sys.modules or VARIABLE in os.environ:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where TensorFlow is, with a loader that filters what it writes."""
        spec = importlib.machinery.PathFinder.find_spec(fullname, path) if fullname == "tensorflow" else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        os.environ.setdefault(VARIABLE, WITHOUT_INFORMATION)
        vars(module)["__loader__"] = module.__spec__.loader = self._loader
        with filtered():
            self._loader.exec_module(module)
            if not has_nvidia():  # when it lists the devices, it tells again that it finds none
                with suppress(Exception):  # which is raised again where they are needed
                    module.config.list_physical_devices("GPU")


@contextmanager
def filtered() -> Iterator[None]:
    """Return a context in which lines on file descriptor 2 that are `NOISE` are left out, unless it raises."""
    if sys.stderr is None or not os.path.isfile(__file__):
        yield
        return
    try:
        saved = os.dup(2)
        program = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=saved,
            start_new_session=True,  # Ctrl-C does not end it
        )
    except OSError:  # stderr is closed, or no process can be started
        yield
        return
    assert program.stdin is not None
    sys.stderr.flush()
    os.dup2(program.stdin.fileno(), 2)
    try:
        yield
        sys.stderr.flush()
        with suppress(OSError):  # what reads it has ended, as where stderr is cut off
            os.write(2, SUCCEEDED)
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        program.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # a process that was started meanwhile may still have the pipe
            program.wait(timeout=10)


def has_nvidia() -> bool:
    """Return whether this machine has a GPU of NVIDIA that a process may use."""
    return any(map(os.path.exists, NVIDIA))


def is_noise(line: bytes, *, with_gpu: bool) -> bool:
    """Return whether a line tells of nothing to be done.

    Example:
        >>> is_noise(b"I0000 00:00:1796025368.14 9795 cudart_stub.cc:31] Could not find cuda drivers", with_gpu=False)
        True
        >>> is_noise(b"ImportError: libcudart.so.12: cannot open shared object file", with_gpu=False)
        False
    """
    line = line.rstrip(b"\r\n")
    if with_gpu:
        return NOISE.fullmatch(line) is not None and ABOUT_GPU.fullmatch(line) is None
    return NOISE.fullmatch(line) is not None or WITHOUT_GPU.fullmatch(line) is not None


def pass_on(lines: Iterator[bytes], write: Any, *, with_gpu: bool) -> None:
    """Write the lines that are not noise, and after the last one also those that are, unless the import succeeded."""
    left_out: list[bytes] = []
    for line in lines:
        if line.endswith(SUCCEEDED):
            left_out.clear()
            write(line.removesuffix(SUCCEEDED))
        elif is_noise(line, with_gpu=with_gpu):
            left_out.append(line)
        else:
            write(line)
    for line in left_out:
        write(line)


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    pass_on(iter(sys.stdin.buffer.readline, b""), _write, with_gpu=has_nvidia())
