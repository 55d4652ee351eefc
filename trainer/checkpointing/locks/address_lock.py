"""Lock of an address: an object that names its holder, and counts on as long as that lives.

A store of objects has no locks, and what a killed run leaves stays. So a run that finds the object of another one waits
whether it counts on: then that run lives, on whatever machine, and else its place is taken. It is a best effort: of two
runs that begin at the same moment, the first to write notices at its next beat, and reports it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

from trackside.callbacks.errors import ArgumentError, describe

from .run_lock import ADVICE, LIMIT_BYTES, LOCK_FILE, has_ended, in_words, of_this_process, tell_once

logger: logging.Logger = logging.getLogger("trackside.trainer")

BEAT_S = 15.0
"""How often the holder of an address says that it lives."""
SILENT_BEATS = 2.5
"""After how many beats without a word it is taken for dead."""


class Marker:
    """The object at one address.

    Args:
        remote: The `RemoteFolder`.
        run_id: What the object says of the run.
    """

    def __init__(self, remote: Any, run_id: str) -> None:
        self.remote = remote
        self.holders = 0
        self._told: dict[str, Any] = {**of_this_process(run_id), "key": "", "beat": 0}
        self._told["key"] = secrets.token_hex(8)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="trackside-lock", daemon=True)

    def acquire(self) -> None:
        """Write the object.

        Raises:
            ArgumentError: If another run that lives holds the address.
        """
        found = self._read()
        if found and not has_ended(found, is_held=self.remote.address in _markers):
            self._wait_for_silence(found)
        self._write()
        self._thread.start()

    def _wait_for_silence(self, found: dict[str, Any]) -> None:
        wait_s = BEAT_S * SILENT_BEATS
        logger.warning(
            "%s may be in use by %s; waiting %.0f s for a sign", self.remote.address, in_words(found), wait_s
        )
        give_up = time.monotonic() + wait_s
        while time.monotonic() < give_up:
            time.sleep(BEAT_S / 10)
            now = self._read()
            if not now:
                return
            if now != found:
                said = f"another run writes to it: {in_words(now)}. {ADVICE}"
                raise ArgumentError(self.remote.field, self.remote.address, said)

    def release(self) -> None:
        """Delete the object, unless another run has taken the address meanwhile."""
        self._ends.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # the next run waits, and takes it
            if self._is_ours(self._read()):
                self.remote.remove(LOCK_FILE)

    def _beat(self) -> None:
        while not self._ends.wait(BEAT_S):
            try:
                found = self._read()
                if found and not self._is_ours(found):
                    told = (self.remote.address, in_words(found))
                    logger.error("%s: another run writes to it, too: %s. Stop one of the two", *told)
                    return
                self._told["beat"] += 1
                self._write()
            except Exception as error:
                logger.info("%s: its lock could not be renewed: %s", self.remote.address, describe(error))

    def _is_ours(self, found: dict[str, Any]) -> bool:
        return bool(found.get("key") == self._told["key"])

    def _read(self) -> dict[str, Any]:
        """Return what the object says; a file is read once more if it was being written."""
        return self._read_once() or self._read_once()

    def _read_once(self) -> dict[str, Any]:
        return _parsed(self.remote.read(LOCK_FILE)[:LIMIT_BYTES])

    def _write(self) -> None:
        self.remote.fs.pipe_file(f"{self.remote.root}/{LOCK_FILE}", json.dumps(self._told).encode())


_markers: dict[str, Marker] = {}


@contextlib.contextmanager
def locked_address(remote: Any, run_id: str) -> Iterator[None]:
    """Hold the address of a `RemoteFolder`, as far as a store of objects can be held; see `Marker`.

    Raises:
        ArgumentError: If another run that lives holds it; the message names it.
    """
    marker = _markers.get(remote.address) or _acquired(remote, run_id)
    if marker is None:
        yield
        return
    marker.holders += 1
    try:
        yield
    finally:
        marker.holders -= 1
        if marker.holders == 0 and _markers.get(remote.address) is marker:
            del _markers[remote.address]
            marker.release()


def _acquired(remote: Any, run_id: str) -> Marker | None:
    """Return the marker of an address, held; None if there cannot be one, which is told."""
    marker = Marker(remote, run_id)
    try:
        marker.acquire()
    except ArgumentError:
        raise
    except Exception as error:  # an address that cannot be written is told when it is probed
        tell_once(remote.address, describe(error))
        return None
    return _markers.setdefault(remote.address, marker)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_markers.clear)
