"""The process that the others are forked from: ``fork_server.py CONNECTION MODULE...``; see `fork_process`."""

from __future__ import annotations

import array
import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import termios
import threading
import types
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn


def serve(connection: socket.socket) -> Any:
    """Fork for each request; return the request in the fork."""
    signal.signal(signal.SIGCHLD, reap)
    while True:
        text, passed, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not text:
            os._exit(0)
        if os.fork() == 0 and watched(telling := passed.pop()):
            os.close(telling)
            connection.close()
            return {**json.loads(text), "outputs": passed}
        for descriptor in passed:
            os.close(descriptor)


def reap(*signal_and_frame: Any) -> None:
    """Let the watchers that have ended go, and add their time to this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def watched(telling: int) -> bool:
    """Fork once more and return True there; tell the number of that process, and how it ended, from here."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    number = os.fork()
    if number == 0:
        return True
    os.write(telling, array.array("i", [number]))
    os.write(telling, array.array("i", [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])]))
    os._exit(0)


def become(arguments: list[str], folder: str, environment: dict[str, str], outputs: list[int]) -> tuple[str, str]:
    """Make of this process what Python makes of a new one; return the code that it is to run, and its file."""
    os.setsid()
    if os.isatty(outputs[0]):
        fcntl.ioctl(outputs[0], termios.TIOCSCTTY, 0)  # Ctrl-C there is a SIGINT here
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, output in enumerate(outputs, start=1):
        os.dup2(output, descriptor)
        os.close(output)
    random.seed()
    sys.modules["numpy"].random.seed()
    is_code = arguments[0] == "-c"
    sys.argv = ["-c", *arguments[2:]] if is_code else arguments
    sys.path[0] = "" if is_code else str(Path(arguments[0]).parent)
    return (arguments[1], "<string>") if is_code else (Path(arguments[0]).read_text(), arguments[0])


def leave(status: int) -> NoReturn:
    """End as Python does, without letting go of every object one by one: that copies all pages, and takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork's collections need not look through the framework, nor copy its pages
    code, file = become(**serve(socket.socket(fileno=int(sys.argv[1]))))
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = file
    ending = 0
    try:
        exec(compile(code, file, "exec", dont_inherit=True), vars(main))
    except SystemExit as error:
        if not isinstance(error.code, (int, NoneType)):
            raise
        ending = error.code or 0
    leave(ending)
