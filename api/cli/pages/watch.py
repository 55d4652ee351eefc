"""The command `trackside watch`: the page of a run while it goes on, and requests to it."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

from trackside.cli.parser import Parser
from trackside.cli.refusals import told_plainly
from trackside.report.server import PORT, watch


def main(argv: Sequence[str]) -> int:
    """Serve the page of a run until Ctrl-C or SIGTERM; return the exit code.

    Raises:
        ConfigError: If the folder or an option is wrong, or a package is missing.
    """
    options = _parser().parse_args(argv)
    with told_plainly(), watch(options.out, port=options.port) as address:
        number = address.rpartition(":")[2].partition("/")[0]
        print(f"{options.out}: {address}")
        print(f"From another machine: ssh -L {number}:127.0.0.1:{number} HOST, and the same address there.")
        print("Ctrl-C ends this server, and leaves the run alone.", flush=True)
        _wait()
    return 0


def _parser() -> Parser:
    summary = "Show a run in a browser while it goes on, and let it save, evaluate or stop."
    parser = Parser(prog="trackside watch", description=summary)
    parser.add_argument("out", metavar="OUT", help="output folder of the run")
    port = f"port on 127.0.0.1; default: {PORT}, or a free one if that is taken; 0: a free one"
    parser.add_argument("--port", type=int, metavar="N", help=port)
    return parser


def _wait() -> None:
    """Wait for SIGINT or SIGTERM."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
