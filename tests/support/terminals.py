"""Terminals of a given width: what a process shows on them, and keys that are typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

ROWS = 40


class Terminal:
    """A terminal for a process, whose end is ``its_end``; close that once the process has it.

    Args:
        columns: Its width; 0 if it does not know it.
    """

    def __init__(self, columns: int) -> None:
        self._end, self.its_end = pty.openpty()
        fcntl.ioctl(self.its_end, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        self._shown = b""

    @property
    def text(self) -> str:
        """What was sent to it, cursor movements included."""
        return self._shown.decode()

    @property
    def lines(self) -> list[str]:
        """What was written to a line each time, without colours and cursor movements."""
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.text))

    def type(self, keys: str) -> None:
        """Send what a user types."""
        os.write(self._end, keys.encode())

    def wait_for(self, text: str, timeout_s: float) -> float:
        """Read until a text is shown; return the seconds that it took."""
        start = time.monotonic()
        while text not in self.text:
            assert self._read(0.1), self.text
            assert time.monotonic() - start < timeout_s, self.text
        return time.monotonic() - start

    def read_to_end(self) -> None:
        """Read what is left, after its processes have ended, and let go of it."""
        while self._read(1):
            pass
        os.close(self._end)

    def _read(self, timeout_s: float) -> bool:
        """Read what is shown within a time; return whether a process has the terminal."""
        try:
            if select.select([self._end], [], [], timeout_s)[0]:
                self._shown += os.read(self._end, 65536)
        except OSError:
            return False
        return True
