"""The command `trackside replay`: send the events of a finished run to other callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trackside.callbacks.bus.report import costs
from trackside.callbacks.config.callback_config import CallbackMap
from trackside.callbacks.errors import ConfigError, TracksideError, did_you_mean
from trackside.callbacks.replay import Replay, replay
from trackside.cli.command_line import split_overrides
from trackside.cli.parser import Parser, local_path
from trackside.cli.refusals import told_plainly
from trackside.config.run_config import read_callbacks
from trackside.config.source import read_source
from trackside.config.yaml_reader import COMMAND_LINE
from trackside.report.run_files import check_journal, folder_and_journal, local_files
from trackside.trainer.staging import is_address

OPTIONS = {"--help": 0, "-h": 0, "--callback": 1, "--output_dir": 1}
"""The command's own options, with the number of values they take; all others are options of callbacks."""


def main(argv: Sequence[str]) -> int:
    """Replay a journal and print a report; return the exit code.

    Raises:
        ConfigError: If the journal, a callback or an option is wrong.
    """
    own, overrides = split_overrides(argv, OPTIONS)
    options = _parser().parse_args(own)
    callbacks = callback_map(options.callback, overrides)
    folder, journal = folder_and_journal(options.out)
    output_dir = options.output_dir or (Path("replay") if is_address(folder) else None)
    with told_plainly(OSError), local_files(folder, lambda _: [journal]) as local:
        check_journal(local / journal)
        try:
            replayed = replay(local / journal, callbacks, output_dir=output_dir)
        except Exception as error:
            kind = "" if isinstance(error, TracksideError) else f"{local / journal}: {type(error).__name__}: "
            raise ConfigError(" ".join([f"{kind}{error}", *getattr(error, "__notes__", ())])) from error
    print("\n".join(ending(replayed)))
    print(costs(replayed.callback_report, sum(item.seconds for item in replayed.callback_report.values())))
    return 0


def callback_map(names: Sequence[str], overrides: Sequence[tuple[str, str]]) -> CallbackMap:
    """Return a map of callbacks from their names and the options on the command line, checked as in a configuration.

    Raises:
        ConfigError: If a name or an option is wrong, or no callback is named.

    Example:
        >>> callback_map(["csv"], [("callbacks.early_stopping.patience", "3"), ("callbacks.csv.path", "a.csv")])
        {'csv': {'enabled': True, 'path': 'a.csv'}, 'early_stopping': {'patience': 3}}
    """
    for key, text in overrides:
        if not key.startswith("callbacks."):
            near = did_you_mean(f"--{key}", OPTIONS)
            hint = "options of a callback are --callbacks.NAME.OPTION VALUE"
            raise ConfigError(f"{COMMAND_LINE}: --{key} {text}: this is not an option; {hint}.{near}")
    source = read_source([], [*((f"callbacks.{name}.enabled", "true") for name in names), *overrides])
    callbacks, entries = read_callbacks(source)
    if not entries:
        raise ConfigError(f"{COMMAND_LINE}: there is nothing to replay to; name a callback with --callback NAME")
    return callbacks


def ending(replayed: Replay) -> list[str]:
    """Return lines that say how far the run went, and where a callback would have stopped it."""
    state = replayed.state
    lines = [f"replayed up to step {state.global_step} of {state.max_steps}, {len(state.log_history)} records"]
    if replayed.stopped_at is not None:
        lines.append(f"stopped at step {replayed.stopped_at}: {state.stop_reason}")
    elif not replayed.is_complete:
        lines.append("the journal ends there: the run was cut off, or is still going on")
    elif any(item.role == "control" for item in replayed.callback_report.values()):
        lines.append("no callback would have stopped it before its end")
    return [*lines, f"output in {replayed.args.output_dir}"]


def _parser() -> Parser:
    parser = Parser(
        prog="trackside replay",
        description="Send the events of a finished run to other callbacks.",
        epilog="Options of a callback: --callbacks.NAME.OPTION VALUE, as for `trackside train`.",
    )
    parser.add_argument("out", metavar="OUT", help="output folder of a run, its address, or its journal")
    parser.add_argument("--callback", action="append", default=[], metavar="NAME", help="a callback to replay to")
    place = "for what callbacks write; default: replay, beside the journal, or here for an address"
    parser.add_argument("--output_dir", type=local_path, metavar="FOLDER", help=place)
    return parser
