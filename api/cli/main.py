"""The command `trackside`: train, evaluate, predict, and inspect a configuration without running it."""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trackside.callbacks.errors import ConfigError, TracksideError
from trackside.callbacks.secrets import masked, scrub

if TYPE_CHECKING:
    from trackside.cli.runner import Outcome
    from trackside.config.run_config import RunConfig

OK, WRONG_CONFIG = 0, 2
"""Exit codes. Training that raises ends with 1 and a traceback; a signal that stops it with 128 and its number."""

OWN_OPTIONS = {"--help": 0, "-h": 0, "--registered-only": 0, "--checkpoint": 1, "--split": 1}
"""Options of the commands themselves, with the number of values they take; all others are keys of the configuration."""

RESUME = "resume_from_checkpoint"

OTHERS = {
    "replay": ("trackside.cli.replay", "Send the events of a finished run to other callbacks."),
    "checkpoints": ("trackside.cli.checkpoints", "List, verify, compare and delete checkpoints."),
    "chaos": ("trackside.cli.chaos.command", "Kill a job at random instants, and compare it with one that was not."),
    "doctor": ("trackside.cli.doctor.findings", "Print what a run would use; under torchrun, check its processes."),
    "new-callback": ("trackside.cli.scaffold", "Write a complete package with one callback, to fill in."),
}
"""Commands with a module of their own, which parses their options."""

OVERRIDES = """\
Every key of the configuration is an option too: --learning_rate 1e-3 (a field of args),
--callbacks.early_stopping.patience 5, --callbacks.csv.enabled false, --model.init_args.width 64."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an exception of training passes through."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except ConfigError as error:
        print(scrub(f"trackside: error: {error}"), file=sys.stderr)
        return WRONG_CONFIG
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        if not _is_cut_off():
            raise
        return 128 + signal.SIGPIPE


def _is_cut_off() -> bool:
    """Return whether stdout is closed at its other end, as by ``trackside plan run.yaml | head``."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        return True
    return False


def _run(argv: list[str]) -> int:
    command = argv[0] if argv else ""
    if command in OTHERS:
        return int(importlib.import_module(OTHERS[command][0]).main(argv[1:]))
    own, overrides = split_overrides(argv) if command in ("train", "evaluate", "predict", "plan") else (argv, [])
    options = _parser(with_arguments=command == "train" and bool({"-h", "--help"} & set(own))).parse_args(own)
    options.typed, options.overrides = argv, overrides
    return int(options.run(options) or OK)


def split_overrides(
    argv: Sequence[str], own_options: Mapping[str, int] = OWN_OPTIONS
) -> tuple[list[str], list[tuple[str, str]]]:
    """Split a command line into the words of the command and the ``(key, text)`` pairs of the configuration.

    A key without a value gets the text ``true``.

    Args:
        own_options: Options of the command itself, with the number of values they take.

    Example:
        >>> split_overrides(["train", "run.yaml", "--fp16", "--seed", "1", "--args.max_steps=-1"])
        (['train', 'run.yaml'], [('fp16', 'true'), ('seed', '1'), ('args.max_steps', '-1')])
    """
    own, overrides = [], []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if not word.startswith("--") or name in own_options:
            own.append(word)
            count = 0 if equals else own_options.get(name, 0)
            own += rest[:count]
            del rest[:count]
        elif equals:
            overrides.append((name[2:], text))
        else:
            has_value = bool(rest) and not rest[0].startswith("--")
            overrides.append((name[2:], rest.pop(0) if has_value else "true"))
    return own, overrides


def command_that_resumes(argv: Sequence[str]) -> str:
    """Return the command line that goes on with the run of ``argv`` from the newest checkpoint in its output_dir.

    Every option is repeated but the choice of another checkpoint; secrets are masked, to be filled in.

    Example:
        >>> command_that_resumes(["train", "my run.yaml", "--seed", "1", "--resume_from_checkpoint=old"])
        "trackside train 'my run.yaml' --seed 1 --resume_from_checkpoint true"
    """
    own, overrides = split_overrides(argv)
    kept = [(key, text) for key, text in overrides if key.replace("-", "_").removeprefix("args.") != RESUME]
    kept = [(key, masked(text, key)) for key, text in kept]
    words = [
        [f"--{key}={text}"] if text.startswith("--") else [f"--{key}", text] for key, text in [*kept, (RESUME, "true")]
    ]
    return shlex.join([*words_before(argv), *own, *itertools.chain(*words)])


def words_before(argv: Sequence[str]) -> list[str]:
    """Return the words that started this command with ``argv``, those of a launcher such as torchrun included.

    The command line of the process above counts where it ends with ``argv`` too, as that of torchrun, mpirun or timeout
    does; otherwise that of this process. It is ``trackside`` where neither ends so: ``argv`` is Python's own.
    """
    count = len(argv)
    for line in (_command_line_of(os.getppid()), sys.orig_argv):
        if line[-count:] == list(argv):
            return _without_interpreter(line[:-count])
    return ["trackside"]


def _command_line_of(process_id: int) -> list[str]:
    """Return the words of a process's command line; none where the system does not tell."""
    try:
        return os.fsdecode(Path(f"/proc/{process_id}/cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        return []


def _without_interpreter(words: list[str]) -> list[str]:
    """Return a script that is on PATH by its name alone, as it was typed, instead of after the interpreter."""
    script = Path(words[1]).name if len(words) > 1 and Path(words[0]).name.startswith("python") else ""
    return [script, *words[2:]] if script and shutil.which(script) == words[1] else words


# -- commands ---------------------------------------------------------------------------------------------------------


def train(options: argparse.Namespace) -> int:
    """Train and print a summary."""
    from trackside.cli import report, runner

    again = command_that_resumes(options.typed)
    outcome = runner.train(_config(options))
    _print_on_main(outcome, "\n" + report.summary(outcome.trainer, outcome.results, outcome.picture))
    if (stopped_by := outcome.trainer.state.stopped_by) is None:
        return OK
    how = f"Go on: {again}" if outcome.has_checkpoint else "It has saved no checkpoint to go on from."
    _print_on_main(outcome, f"\nStopped by {stopped_by}. {how}")
    return 128 + signal.Signals[stopped_by]


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


def callbacks(options: argparse.Namespace) -> None:
    """Print the registered callbacks."""
    from trackside.cli.plan import registered

    print(registered())


def schema(options: argparse.Namespace) -> None:
    """Print the JSON schema of a configuration."""
    from trackside.config.json_schema import schema as schema_of

    print(json.dumps(schema_of(options.framework), indent=2))


def plot(options: argparse.Namespace) -> None:
    """Draw the loss curve of a finished run."""
    from trackside.callbacks.state import TrainerState
    from trackside.cli import report

    folder = Path(os.path.expanduser(options.output_dir))
    states = sorted(folder.glob("**/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise ConfigError(f"{folder}: the folder has no trainer_state.json, from which the curve is drawn")
    try:
        state = TrainerState.load_from_json(states[-1])
    except (TracksideError, OSError) as error:
        raise ConfigError(str(error)) from error
    picture = report.draw_loss_curve(state.log_history, folder / report.LOSS_CURVE)
    if picture is None:
        raise ConfigError("drawing needs the package 'matplotlib', which is not installed. Run: pip install matplotlib")
    print(picture)


def _config(options: argparse.Namespace) -> RunConfig:
    from trackside.config.run_config import load_config

    return load_config(options.files, options.overrides, registered_only=options.registered_only)


def _print_metrics(outcome: Outcome) -> None:
    for split, metrics in outcome.results.items():
        lines = [f"{name} = {value:.6g}" for name, value in sorted(metrics.items()) if isinstance(value, (int, float))]
        _print_on_main(outcome, f"{split}:\n  " + "\n  ".join(lines))


def _print_on_main(outcome: Outcome, text: str) -> None:
    if outcome.trainer.is_world_process_zero():
        print(text, flush=True)


# -- the parser -------------------------------------------------------------------------------------------------------


def _parser(with_arguments: bool) -> argparse.ArgumentParser:
    from trackside import __version__

    parser = argparse.ArgumentParser(prog="trackside", description="Train PyTorch and TensorFlow models.")
    parser.add_argument("--version", action="version", version=f"trackside {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for run in (train, evaluate, predict, plan):
        command = _command(commands, run, epilog=OVERRIDES)
        command.add_argument("files", nargs="+", metavar="run.yaml", help="configuration files; the later wins")
        command.add_argument("--registered-only", action="store_true", help="import only what packages register")
        if run is train and with_arguments:
            command.epilog = f"{OVERRIDES}\n\nFields of args:\n{_fields()}"
        if run in (evaluate, predict):
            command.add_argument("--checkpoint", metavar="FOLDER", help="weights to use; default: the final model")
        if run is evaluate:
            command.add_argument("--split", choices=("eval", "test"), default="eval", help="what to evaluate on")
    _command(commands, callbacks)
    _command(commands, schema).add_argument("--framework", choices=("pytorch", "tensorflow"), default="pytorch")
    _command(commands, plot).add_argument("output_dir", help="folder of the run")
    for name, (_, summary) in OTHERS.items():
        commands.add_parser(name, help=summary, add_help=False)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int | None],
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    summary = (run.__doc__ or "").strip()
    command = commands.add_parser(
        run.__name__,
        help=summary,
        description=summary,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def _fields() -> str:
    from trackside.cli.report import table
    from trackside.config.run_config import arguments_class

    fields = arguments_class("pytorch").__dataclass_fields__.values()
    return table([(f"  --{item.name}", item.metadata["help"]) for item in fields if "help" in item.metadata])
