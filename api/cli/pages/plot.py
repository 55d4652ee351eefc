"""The command `trackside plot`: a picture of a run's losses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from trackside.callbacks.errors import ConfigError, TracksideError
from trackside.callbacks.state import TrainerState
from trackside.cli import report
from trackside.cli.parser import Parser, local_path
from trackside.cli.refusals import told_plainly
from trackside.report.run_files import local_files
from trackside.trainer.checkpointing.names import STATE_FILE
from trackside.trainer.checkpointing.remote import RemoteFolder
from trackside.trainer.staging import is_address


def main(argv: Sequence[str]) -> int:
    """Draw the loss curve of a run and print its path; return the exit code.

    Raises:
        ConfigError: If the folder or an option is wrong, or a package is missing.
    """
    options = _parser().parse_args(argv)
    with told_plainly(OSError, ValueError), local_files(options.out, states_at) as folder:
        states = sorted(filter(Path.is_file, folder.glob(f"**/{STATE_FILE}")), key=_steps)
        if not states:
            raise ConfigError(f"{folder} has no {STATE_FILE}, from which the curve is drawn")
        state = TrainerState.load_from_json(states[-1])
        here = Path() if is_address(options.out) else folder
        picture = report.draw_loss_curve(state.log_history, options.output or here / report.LOSS_CURVE)
    if picture is None:
        raise ConfigError("drawing needs the package 'matplotlib', which is not installed. Run: pip install matplotlib")
    print(picture)
    return 0


def states_at(remote: RemoteFolder) -> Iterator[str]:
    """Yield the names of files at an address that may hold the state of the run."""
    yield STATE_FILE
    yield from (f"{name}/{STATE_FILE}" for name in remote.names())


def _steps(path: Path) -> int:
    """Return how far the run had come; -1 if the file cannot be read."""
    try:
        return TrainerState.load_from_json(path).global_step
    except (TracksideError, OSError):
        return -1


def _parser() -> Parser:
    parser = Parser(prog="trackside plot", description="Draw the loss curve of a run.")
    parser.add_argument("out", metavar="OUT", help="output folder of a run, or its address")
    where = f"the file to write; default: {report.LOSS_CURVE} in OUT, or in this folder for an address"
    parser.add_argument("-o", "--output", type=local_path, metavar="FILE", help=where)
    return parser
