"""The command `trackside report`: one HTML file from the journals and checkpoints of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trackside.callbacks.errors import ConfigError
from trackside.cli.parser import Parser, local_path
from trackside.cli.refusals import told_plainly
from trackside.report.checkpoint_entries import size_text
from trackside.report.document import write
from trackside.trainer.staging import is_address

NAME = "report.html"
"""The file, if no other is given."""


def main(argv: Sequence[str]) -> int:
    """Write the page of one run, or of several, and print its path; return the exit code.

    Raises:
        ConfigError: If a folder or an option is wrong, or a package is missing.
    """
    options = _parser().parse_args(argv)
    path = options.output or _default(options.outs)
    if path.is_dir():
        raise ConfigError(f"command line: --output {options.output}: this is a folder; a file is needed")
    with told_plainly(OSError):
        written = write(path, *options.outs, title=options.title)
    print(f"{written} ({size_text(written.stat().st_size)})")
    return 0


def _parser() -> Parser:
    summary = "Write one HTML file about a run, or several side by side: curves, evaluations, decisions, costs."
    parser = Parser(prog="trackside report", description=summary)
    parser.add_argument("outs", nargs="+", metavar="OUT", help="output folder of a run, its address, or its journal")
    where = f"the file to write; default: {NAME} in OUT, or in this folder for an address and for several runs"
    parser.add_argument("-o", "--output", type=local_path, metavar="FILE", help=where)
    parser.add_argument("--title", metavar="TEXT", help="heading of the page; default: the names of the runs")
    return parser


def _default(outs: Sequence[str]) -> Path:
    """Return where the page of these runs is written."""
    folder = Path(outs[0]).expanduser()
    if len(outs) > 1 or is_address(outs[0]):
        return Path(NAME)
    return (folder.parent if folder.is_file() else folder) / NAME
