"""The command `trackside`: train, evaluate, predict, and inspect a configuration without running it."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from trackside.callbacks.errors import ArgumentError, ConfigError, did_you_mean
from trackside.callbacks.secrets import scrub
from trackside.cli.command_line import RESUME, check_own_options, command_that_resumes, split_overrides
from trackside.cli.parser import Parser
from trackside.cli.quiet.tensorflow_import import quiet_tensorflow
from trackside.cli.refusals import complain, ended, is_of_output, told_plainly

if TYPE_CHECKING:
    from trackside.cli.runner import Outcome
    from trackside.config.run_config import RunConfig

OK, WRONG_CONFIG = 0, 2
"""Exit codes. Training that raises ends with 1 and a traceback; a signal that stops it with 128 and its number."""

OTHERS = {
    "plot": ("trackside.cli.pages.plot", "Draw the loss curve of a run."),
    "replay": ("trackside.cli.replay", "Send the events of a finished run to other callbacks."),
    "checkpoints": ("trackside.cli.checkpoints", "List, verify, compare and delete checkpoints."),
    "report": ("trackside.cli.pages.report", "Write one HTML file about runs: curves, decisions, costs, arguments."),
    "watch": ("trackside.cli.pages.watch", "Show a run in a browser while it goes on; save, evaluate or stop it."),
    "chaos": ("trackside.cli.chaos.command", "Kill a job at random instants, and compare it with one that was not."),
    "doctor": ("trackside.cli.doctor.findings", "Print what a run would use; under torchrun, check its processes."),
    "completion": ("trackside.cli.completion", "Print the script with which bash, zsh or fish completes trackside."),
    "init": ("trackside.cli.project", "Write run.yaml, model.py and data.py that train, to begin with."),
    "new-callback": ("trackside.cli.scaffold", "Write a complete package with one callback, to fill in."),
}
"""Commands with a module of their own, which parses their options."""

TRAINING = ("train", "evaluate", "predict", "lr-find")
"""Commands that run code of the user, of which an error is shown with its traceback."""

RUNS = (*TRAINING, "plan")
"""Commands that take a configuration, and its keys as options."""

OPTIONS = ("--help", "-h", "--version")
"""Options of the command itself."""

WATCHED = ("journal", "control_files")
"""Callbacks that --watch attaches: what the page shows, and what it asks for."""

COMMANDS = (*RUNS, "callbacks", "schema", *OTHERS)

OVERRIDES = """\
Every key of the configuration is an option too: --learning_rate 1e-3 (a field of args),
--callbacks.early_stopping.patience 5, --callbacks.csv.enabled false, --model.width 64 (an option of a component)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an exception of training passes through."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # texts of the user in a terminal without their characters
    try:
        with quiet_tensorflow():
            code = _run(list(sys.argv[1:] if argv is None else argv))
    except ConfigError as error:
        complain(scrub(str(error)))
        code = WRONG_CONFIG
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except SystemExit as end:  # of the parser, or of a signal that stopped the run
        if not isinstance(end.code, str):
            end.code = ended(int(end.code or OK))
        raise
    except OSError as error:
        if not is_of_output(error):
            raise
        return ended(OK, error)
    return ended(code)


def _run(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if command not in (*COMMANDS, *OPTIONS):
        what = "a command comes before its options" if command.startswith("-") else "this is not a command"
        near = did_you_mean(command, (*COMMANDS, "--help", "--version"))
        raise ConfigError(f"{command}: {what}.{near}")
    with nullcontext() if command in TRAINING else told_plainly(OSError):
        if command in OTHERS:
            return int(importlib.import_module(OTHERS[command][0]).main(argv[1:]))
        own, overrides = split_overrides(argv) if command in RUNS else (argv or [command], [])
        options = command_parser(own if command == "train" and {"-h", "--help"} & set(own) else ()).parse_args(own)
        options.typed, options.overrides = argv, overrides
        return int(options.run(options) or OK)


# -- commands ---------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> int:
    """Train and print a summary."""
    from trackside.cli import report, runner

    again = command_that_resumes(options.typed)
    if options.watch:
        options.overrides = [*((f"callbacks.{name}.enabled", "true") for name in WATCHED), *options.overrides]
    if options.resume:
        options.overrides = [*options.overrides, (RESUME, "true")]
    config = _config(options)
    if options.print_config:
        return print_config(config)
    outcome = runner.train(config)
    _print_on_main(outcome, "\n" + report.summary(outcome.trainer, outcome.results, outcome.picture))
    if (stopped_by := outcome.trainer.state.stopped_by) is None:
        return OK
    how = f"Go on: {again}" if outcome.has_checkpoint else "It has saved no checkpoint to go on from."
    _print_on_main(outcome, f"\nStopped by {stopped_by}. {how}")
    return 128 + signal.Signals[stopped_by]


def print_config(config: RunConfig) -> int:
    """Print the merged configuration."""
    from trackside.config.merged import merged_text

    if not config.registered_only:
        config.components()  # which says how the options on the command line are read
    print(merged_text(config), end="")
    return OK


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate the trained model and print the metrics."""
    from trackside.cli import runner

    _print_metrics(runner.evaluate(_config(options), split=options.split, checkpoint=options.checkpoint))


def predict(options: argparse.Namespace) -> None:
    """Predict the test data and write the predictions."""
    from trackside.cli import runner

    outcome = runner.predict(_config(options), checkpoint=options.checkpoint)
    _print_metrics(outcome)
    _print_on_main(outcome, f"predictions: {outcome.predictions}")


def plan(options: argparse.Namespace) -> None:
    """Print the components, callbacks and arguments of a run, without running it."""
    from trackside.cli import runner
    from trackside.cli.plan import plan as plan_of

    config = _config(options)
    with runner.located(config):
        print(plan_of(config))


def lr_find(options: argparse.Namespace) -> None:
    """Find a learning rate by a short run, and draw its losses."""
    from trackside.cli import runner
    from trackside.trainer.short_runs.rate_finder import check_range

    try:
        check_range(options.min_rate, options.max_rate, options.steps)
    except ArgumentError as error:
        option = f"--{error.field.replace('_', '-')} {error.value}"
        raise ConfigError(f"command line: {option} is not allowed: {error.allowed}") from None
    found, picture = runner.find_learning_rate(_config(options), options.min_rate, options.max_rate, options.steps)
    print(found)
    print("drawing needs the package 'matplotlib'. Run: pip install matplotlib" if picture is None else picture)


def callbacks(options: argparse.Namespace) -> None:
    """Print the registered callbacks, or all about one of them."""
    from trackside.cli.plan import described, registered

    with told_plainly():
        print(registered() if options.name is None else described(options.name))


def schema(options: argparse.Namespace) -> None:
    """Print the JSON schema of a configuration."""
    from trackside.config.json_schema import schema as schema_of

    print(json.dumps(schema_of(options.framework), indent=2))


def _config(options: argparse.Namespace) -> RunConfig:
    from trackside.config.run_config import load_config

    check_own_options(options)
    return load_config(options.files, options.overrides, registered_only=options.registered_only)


def _print_metrics(outcome: Outcome) -> None:
    for split, metrics in outcome.results.items():
        lines = [f"{name} = {value:.6g}" for name, value in sorted(metrics.items()) if isinstance(value, (int, float))]
        _print_on_main(outcome, f"{split}:\n  " + "\n  ".join(lines))


def _print_on_main(outcome: Outcome, text: str) -> None:
    if outcome.trainer.is_world_process_zero():
        print(text, flush=True)


# -- the parser -------------------------------------------------------------------------------------------------------


def command_parser(asked: Sequence[str] = ()) -> Parser:
    """Return the parser of the command.

    Args:
        asked: Words that ask for the help of `train`, which has all arguments of the framework of their file.
    """
    from trackside import __version__

    parser = Parser(prog="trackside", description="Train PyTorch and TensorFlow models.")
    parser.add_argument("--version", action="version", version=f"trackside {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for run in (train, evaluate, predict, plan, lr_find):
        command = _command(commands, run, epilog=OVERRIDES)
        command.add_argument("files", nargs="+", metavar="run.yaml", help="configuration files; the later wins")
        command.add_argument("--registered-only", action="store_true", help="import only what packages register")
        if run is train:
            command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in output_dir")
            command.add_argument("--watch", action="store_true", help="let `trackside watch` show the run and ask it")
            command.add_argument("--print-config", action="store_true", help="print the merged configuration and end")
        if run is train and asked:
            from trackside.cli.fields import fields_help

            command.epilog = f"{OVERRIDES}\n\n{fields_help(asked)}"
        if run in (evaluate, predict):
            command.add_argument("--checkpoint", metavar="FOLDER", help="weights to use; default: the final model")
        if run is lr_find:
            command.add_argument(
                "--min-rate", type=float, default=1e-7, metavar="RATE", help="first rate; default: 1e-7"
            )
            command.add_argument("--max-rate", type=float, default=1.0, metavar="RATE", help="last rate; default: 1")
            command.add_argument("--steps", type=int, default=100, metavar="N", help="updates; default: 100")
        if run is evaluate:
            command.add_argument(
                "--split", choices=("eval", "test"), default="eval", help="what to evaluate on; default: eval"
            )
    _command(commands, callbacks).add_argument("name", nargs="?", help="one of them; package:name if there are several")
    _command(commands, schema).add_argument(
        "--framework", choices=("pytorch", "tensorflow"), default="pytorch", help="default: pytorch"
    )
    for name, (_, summary) in OTHERS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _command(
    commands: argparse._SubParsersAction[Parser],
    run: Callable[[argparse.Namespace], int | None],
    epilog: str | None = None,
) -> Parser:
    summary = (run.__doc__ or "").strip()
    command = commands.add_parser(
        run.__name__.replace("_", "-"),
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command
