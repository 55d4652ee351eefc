"""Access to a run that is watched: its token, the requests that it takes, and who may ask a server."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trackside.callbacks.builtin.control_files import FOLDER, LISTENING, REQUESTS, make_private
from trackside.callbacks.errors import ConfigError, describe
from trackside.trainer.checkpointing.locks.run_lock import holder_of

TOKEN = "token"
"""The file with the token, in the folder of the control files."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names under which a browser may ask for the page; any other is that of a page that had its name point here."""


def token_of(out: Path) -> str:
    """Return the token of a run, which is made unless a file that only this user can read holds one.

    Raises:
        ConfigError: If it cannot be kept in the folder.
    """
    folder = out / FOLDER
    path = folder / TOKEN
    try:
        make_private(folder)
        known = _read_private(path)
        if known is not None:
            return known
        path.unlink(missing_ok=True)
        made = secrets.token_urlsafe(32)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(made)
    except OSError as error:
        raise ConfigError(
            f"{path}: the token cannot be kept there, so the run cannot be watched: {describe(error)}"
        ) from error
    return made


def _read_private(path: Path) -> str | None:
    """Return the token in a file that only this user can read; None if it is something else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
            return None
        text = file.read(1000).decode("ascii", errors="replace").strip()
    return text if len(text) >= 32 else None


def is_allowed(authorization: str | None, token: str) -> bool:
    """Return whether an Authorization header has the token; the time that it takes tells nothing about it."""
    return hmac.compare_digest((authorization or "").encode("utf-8", "replace"), f"Bearer {token}".encode())


def is_own_page(host: str | None, origin: str | None) -> bool:
    """Return whether a request names this machine's loopback, and comes from no page of another origin.

    Another site can point a name of its own to 127.0.0.1 (DNS rebinding): the Host header has that name then. A form
    or a script of another site has its own Origin.

    Example:
        >>> is_own_page("localhost:8765", "http://localhost:8765"), is_own_page("evil.example:8765", None)
        (True, False)
        >>> is_own_page("127.0.0.1:8765", "http://evil.example"), is_own_page("127.0.0.1:8765", "null")
        (False, False)
    """
    try:
        name = urlsplit(f"//{host or ''}").hostname
    except ValueError:
        return False
    return name in LOOPBACK and origin in (None, f"http://{host}")


def is_listening(out: Path) -> bool:
    """Return whether the process that works on a run looks at its control files."""
    holder = holder_of(out)
    try:
        told: Any = json.loads((out / FOLDER / LISTENING).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if holder is None or not isinstance(told, dict):
        return False
    return (told.get("pid"), told.get("host")) == (holder.get("pid"), holder.get("host"))


def ask(out: Path, action: str) -> None:
    """Leave a request for a run, which takes it after a step.

    Raises:
        OSError: If it cannot be written.
    """
    descriptor = os.open(out / FOLDER / action, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    os.close(descriptor)


def withdraw(out: Path) -> None:
    """Remove the requests that a run has not taken, since it has ended."""
    for action in REQUESTS:
        with contextlib.suppress(OSError):
            (out / FOLDER / action).unlink(missing_ok=True)


def waiting(out: Path) -> list[str]:
    """Return the requests that a run has not taken yet."""
    return [action for action in REQUESTS if (out / FOLDER / action).exists()]
