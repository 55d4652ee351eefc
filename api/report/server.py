"""Server of the page of a run that goes on: the same page, what is new in it, and requests to the run."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from trackside.callbacks.builtin.control_files import FOLDER, REQUESTS
from trackside.callbacks.errors import ConfigError
from trackside.report import access
from trackside.report.document import contents, live_page, sections
from trackside.report.reading import RunReader
from trackside.report.tables import ending_of
from trackside.trainer.staging import StagingFolder, is_address

logger: logging.Logger = logging.getLogger("trackside.report")

PORT = 8765
"""The port, unless it is taken or another is given."""

FRESH_S = 0.5
"""What was read of a run is sent for these seconds, however many browsers ask."""

LIMIT_BYTES = 1000
"""The most bytes of a request's body."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer; the page itself has a policy of its own too."""


class WatchedRun:
    """A run that is watched, for all browsers that ask.

    Args:
        out: Its output folder.

    Raises:
        ConfigError: If the folder does not exist, or its token cannot be kept there.
    """

    def __init__(self, out: str | Path) -> None:
        if is_address(out):
            staging = StagingFolder.of(str(out), None)
            where = f"here, {staging}" if Path(staging).is_dir() else "its staging folder, on the machine where it runs"
            raise ConfigError(
                f"{out}: watch reads the local folder that the run works in, and leaves requests there: give it that "
                f"folder ({where}). trackside report makes a page of an address"
            )
        self.reader = RunReader(out)
        self.folder = self.reader.folder
        self.token = access.token_of(self.folder)
        self._lock = threading.Lock()
        self._known: tuple[float, str, dict[str, Any]] = (float("-inf"), "", {})

    def state(self, version: str) -> dict[str, Any]:
        """Return what the page shows; what has not changed since ``version`` is left out."""
        with self._lock:
            read_at, known, content = self._known
            if time.monotonic() - read_at > FRESH_S:
                content = self._content()
                known = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
                self._known = (time.monotonic(), known, content)
            state = {"version": known, "listening": access.is_listening(self.folder)}
            state["waiting"] = access.waiting(self.folder) if state["listening"] else []
        return {**state, **({} if known == version else {"content": content})}

    def _content(self) -> dict[str, Any]:
        try:
            run = self.reader.read()
        except ConfigError as error:
            return {"title": self.reader.name, "nothing": str(error)}
        return {
            "title": run.name,
            "sections": sections([run]),
            "data": contents([run]),
            "status": ending_of(run),
            "is_running": run.is_running,
        }

    def ask(self, action: str) -> tuple[HTTPStatus, str]:
        """Leave a request for the run; return the status of the answer and a sentence."""
        if action not in REQUESTS:
            return HTTPStatus.BAD_REQUEST, f"{action!r} is not a request; the requests are {', '.join(REQUESTS)}."
        if not access.is_listening(self.folder):
            access.withdraw(self.folder)
            return HTTPStatus.CONFLICT, "No run looks at the control files of this folder."
        try:
            access.ask(self.folder, action)
        except OSError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, f"The request cannot be left for the run: {error}"
        return HTTPStatus.ACCEPTED, f"Asked the run: {action}. It acts after one of its next steps."


class Handler(BaseHTTPRequestHandler):
    """Answers for one run. Everything but the empty page needs the token; nothing is told to other sites."""

    server_version = "trackside"
    sys_version = ""
    timeout = 20
    run: ClassVar[WatchedRun]

    def do_GET(self) -> None:
        """Answer with the empty page, or with the state of the run."""
        address = urlsplit(self.path)
        if not self._is_own_page():
            return
        if address.path == "/":
            self._send(HTTPStatus.OK, live_page(), "text/html; charset=utf-8")
        elif address.path != "/state":
            self._answer(HTTPStatus.NOT_FOUND, "This address is not served; the page is at /.")
        elif self._has_token():
            version = address.query.removeprefix("version=")
            self._send(HTTPStatus.OK, json.dumps(self.run.state(version)), "application/json")

    def do_POST(self) -> None:
        """Take a request to the run."""
        length = self.headers.get("Content-Length", "0")
        size = int(length) if length.isdecimal() else LIMIT_BYTES + 1
        body = self.rfile.read(size) if size <= LIMIT_BYTES else b""
        self.close_connection = True
        if not (self._is_own_page() and self._has_token()):
            return
        if self.path != "/request":
            self._answer(HTTPStatus.NOT_FOUND, "This address is not served; the page is at /.")
        elif size > LIMIT_BYTES:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request has {LIMIT_BYTES} bytes at most.")
        elif (action := _action_in(body, self.headers.get_content_type())) is None:
            self._answer(HTTPStatus.BAD_REQUEST, 'A request is JSON, such as {"action": "save"}.')
        else:
            self._answer(*self.run.ask(action))

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests for those who ask for it, instead of printing them."""
        logger.debug(format, *args)

    def _is_own_page(self) -> bool:
        if access.is_own_page(self.headers.get("Host"), self.headers.get("Origin")):
            return True
        self._answer(HTTPStatus.FORBIDDEN, "This server answers its own page, on loopback, only.")
        return False

    def _has_token(self) -> bool:
        if access.is_allowed(self.headers.get("Authorization"), self.run.token):
            return True
        self._answer(HTTPStatus.FORBIDDEN, f"The token is wrong. It is in the file {FOLDER}/{access.TOKEN} of the run.")
        return False

    def _answer(self, status: HTTPStatus, text: str) -> None:
        self._send(status, json.dumps({"text": text}), "application/json")

    def _send(self, status: HTTPStatus, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(status)
        headers: Mapping[str, str] = {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the browser went away
            self.close_connection = True


def _action_in(body: bytes, kind: str) -> str | None:
    """Return the action that a body asks for; None if it is not a request."""
    if kind != "application/json":  # a form of another site cannot send this kind without being asked first
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    action = found.get("action") if isinstance(found, dict) else None
    return action if isinstance(action, str) else None


class Server(ThreadingHTTPServer):
    """A server whose threads end with the process."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error instead of printing it."""
        logger.debug("a request failed", exc_info=True)


@contextmanager
def watch(out: str | Path, *, port: int | None = None) -> Iterator[str]:
    """Serve the page of a run on loopback, while it goes on and afterwards; yield its address, with the token.

    Args:
        out: The output folder of the run, which must exist.
        port: The port. None: `PORT`, or a free one if that is taken; 0: a free one.

    Raises:
        ConfigError: If the folder does not exist, its token cannot be kept there, or the port is taken.
        MissingPackageError: If plotly or jinja2 is not installed.
    """
    run = WatchedRun(out)
    live_page()  # what is missing is told before a server starts
    server = _bound(type("RunHandler", (Handler,), {"run": run}), port)
    thread = threading.Thread(target=server.serve_forever, name="trackside watch", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/#token={run.token}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(handler: type[Handler], port: int | None) -> Server:
    """Return a server that is bound to a port of loopback."""
    try:
        return Server(("127.0.0.1", PORT if port is None else port), handler)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return Server(("127.0.0.1", 0), handler)
        raise ConfigError(f"port {port}: the page cannot be served there: {error.strerror or error}") from error
    except OverflowError as error:
        raise ConfigError(f"port {port}: a number from 0 to 65535 is needed") from error
