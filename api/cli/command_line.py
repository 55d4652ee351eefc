"""The words of a command line: those of the command itself, and the keys of the configuration among them."""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trackside.callbacks._util.conversion import hints_of, members_of
from trackside.callbacks.errors import ConfigError
from trackside.callbacks.secrets import masked
from trackside.config.command_text import Switch
from trackside.config.run_config import FRAMEWORKS, arguments_class
from trackside.config.source import as_typed
from trackside.config.yaml_reader import COMMAND_LINE

OWN_OPTIONS = {
    "--help": 0,
    "-h": 0,
    "--registered-only": 0,
    "--resume": 0,
    "--watch": 0,
    "--print-config": 0,
    "--checkpoint": 1,
    "--split": 1,
    "--min-rate": 1,
    "--max-rate": 1,
    "--steps": 1,
}
"""Options of the commands themselves, with the number of values they take; all others are keys of the configuration."""

RESUME = "resume_from_checkpoint"


def split_overrides(
    argv: Sequence[str], own_options: Mapping[str, int] = OWN_OPTIONS
) -> tuple[list[str], list[tuple[str, str]]]:
    """Split a command line into the words of the command and the ``(key, text)`` pairs of the configuration.

    A key without a value gets a `Switch`, the text ``true``; so does a switch, such as ``--bf16``, in front of a file.
    The command's own options may be written with underscores, as keys are.

    Args:
        own_options: Options of the command itself, with the number of values they take.

    Example:
        >>> split_overrides(["train", "--fp16", "run.yaml", "--seed", "1", "--args.max_steps=-1"])
        (['train', 'run.yaml'], [('fp16', 'true'), ('seed', '1'), ('args.max_steps', '-1')])
        >>> split_overrides(["train", "run.yaml", "--print_config"])
        (['train', 'run.yaml', '--print-config'], [])
    """
    own, overrides = [], []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if (dashed := name.replace("_", "-")) in own_options:
            word, name = dashed + word.removeprefix(name), dashed
        if not word.startswith("--") or name in own_options:
            own.append(word)
            count = 0 if equals else own_options.get(name, 0)
            own += rest[:count]
            del rest[:count]
        elif equals:
            overrides.append((name[2:], text))
        else:
            has_value = bool(rest) and not rest[0].startswith("--") and not (is_file(rest[0]) and _is_switch(name[2:]))
            overrides.append((name[2:], rest.pop(0) if has_value else Switch("true")))
    return own, overrides


def check_own_options(options: argparse.Namespace) -> None:
    """Check that no key of the configuration is a misspelt option of the command itself.

    Raises:
        ConfigError: If one is.
    """
    own = [name.removeprefix("--").replace("-", "_") for name in OWN_OPTIONS]
    own = [name for name in own if hasattr(options, name)]
    for key, text in options.overrides:
        for near in difflib.get_close_matches(field_of(key), own, n=1, cutoff=0.8):
            if not any(hasattr(arguments_class(framework), field_of(key)) for framework in FRAMEWORKS):
                said = f"this is not an option. Did you mean '--{near.replace('_', '-')}'?"
                raise ConfigError(f"{COMMAND_LINE}: {as_typed(key, text)}: {said}")


def is_file(word: str) -> bool:
    """Return whether ``word`` of a command line is the name of a configuration file."""
    return word.endswith((".yaml", ".yml", ".json"))


def _is_switch(key: str) -> bool:
    """Return whether the option ``key`` is true or false: an argument, or whether a callback is enabled."""
    name = field_of(key)
    kinds = [members_of(hints_of(arguments_class(framework)).get(name)) for framework in FRAMEWORKS]
    return key.endswith(".enabled") or any(bool in found and str not in found for found in kinds)


def field_of(key: str) -> str:
    """Return the name of the argument that ``key`` of a command line sets.

    Example:
        >>> field_of("args.learning-rate")
        'learning_rate'
    """
    return key.replace("-", "_").removeprefix("args.")


def command_that_resumes(argv: Sequence[str]) -> str:
    """Return the command line that goes on with the run of ``argv`` from the newest checkpoint in its output_dir.

    Every option is repeated but the choice of another checkpoint; secrets are masked, to be filled in.

    Example:
        >>> command_that_resumes(["train", "my run.yaml", "--seed", "1", "--resume_from_checkpoint=old"])
        "trackside train 'my run.yaml' --seed 1 --resume"
    """
    own, overrides = split_overrides(argv)
    kept = [(key, masked(text, key)) for key, text in overrides if field_of(key) != RESUME]
    words = [[f"--{key}={text}"] if text.startswith("--") else [f"--{key}", text] for key, text in kept]
    own = [word for word in own if word != "--resume"]
    return shlex.join([*words_before(argv), *own, *itertools.chain(*words), "--resume"])


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
