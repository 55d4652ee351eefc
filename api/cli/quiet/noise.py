"""Which lines of TensorFlow tell of nothing to be done; as a program, it passes on the others."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable

SUCCEEDED = b"\0the import has succeeded\n"
"""The last line, after an import that has succeeded."""

NVIDIA = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
"""Devices of which one exists where an NVIDIA GPU can be used."""

WHEN = rb"(?:\d{4}-\d\d-\d\d [\d:.]+: )?"
"""How a line begins in older versions."""

INFORMATION = WHEN + rb"I(?:\d{4} [\d:.]+ +\d+ [\w.]+\.cc:\d+\]| \S+\.cc:\d+\])"

ABOUT_GPU = re.compile(
    rb"|".join(
        (
            INFORMATION + rb".*GPU will not be used.*",
            WHEN + rb"E.*\.cc:\d+\] failed call to cuInit: .*",
        )
    )
)
"""Lines about a GPU that is not used, which are noise only where there is none."""

NOISE = re.compile(
    rb"|".join(
        (
            rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
            rb"To enable the following instructions: .* rebuild TensorFlow with the appropriate compiler flags\.",
            INFORMATION + rb".*",
            WHEN + rb"[WE].*\.cc:\d+\] Unable to register cu\w+ factory: .* already been registered",
            WHEN + rb"[WE].*\.cc:\d+\] computation placer already registered.*",
        )
    )
)
"""The other lines: information, and what is registered twice."""


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
    return not with_gpu if ABOUT_GPU.fullmatch(line) else NOISE.fullmatch(line) is not None


def pass_on(lines: Iterable[bytes], write: Callable[[bytes], object], *, with_gpu: bool) -> None:
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
