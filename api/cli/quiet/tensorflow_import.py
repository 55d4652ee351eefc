"""An import of TensorFlow whose messages are filtered.

TensorFlow writes them to file descriptor 2 while it is imported, before any setting of its log is read. For that time
the descriptor is a pipe to another process, the program `noise`, which passes on every line that it does not know, at
once. It outlives a crash of the import; if the import does not succeed, it passes on the other lines, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from . import noise

VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
"""If the user has set it, nothing is left out but what it says."""

WITHOUT_INFORMATION = "1"


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
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """Return where TensorFlow is, with a loader that filters what it writes."""
        spec = PathFinder.find_spec(fullname, path) if fullname == "tensorflow" else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        os.environ.setdefault(VARIABLE, WITHOUT_INFORMATION)
        with filtered():
            super().exec_module(module)
            if not noise.has_nvidia():  # when it lists the devices, it tells again that it finds none
                with suppress(Exception):  # which is raised again where they are needed
                    module.config.list_physical_devices("GPU")


@contextmanager
def filtered() -> Iterator[None]:
    """Return a context in which lines on file descriptor 2 that are noise are left out, unless it raises."""
    if sys.stderr is None or not os.path.isfile(noise.__file__):
        yield
        return
    try:
        saved = os.dup(2)
        program = subprocess.Popen(
            [sys.executable, "-I", "-S", noise.__file__],
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
            os.write(2, noise.SUCCEEDED)
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        program.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # a process that was started meanwhile may still have the pipe
            program.wait(timeout=10)
