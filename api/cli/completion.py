"""The command `trackside completion`: a script with which a shell completes commands, options and choices."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from trackside.callbacks._util.imports import is_installed
from trackside.callbacks.errors import ConfigError
from trackside.cli.parser import Parser
from trackside.config.run_config import FRAMEWORKS, arguments_class

SHELLS = ("bash", "zsh", "fish")


def main(argv: Sequence[str]) -> int:
    """Print the script for a shell."""
    options = _parser().parse_args(argv)
    if not is_installed("shtab"):
        raise ConfigError("completion needs the package 'shtab', which is not installed. Run: pip install shtab")
    import shtab

    parser = complete_parser()
    if options.shell not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(f"the installed shtab has no {options.shell}. Run: pip install --upgrade shtab")
    print(shtab.complete(parser, shell=options.shell))
    return 0


def complete_parser() -> Parser:
    """Return the parser of the command, in which the arguments of both frameworks are options."""
    import shtab

    from trackside.cli.fields import choices_of
    from trackside.cli.main import RUNS, command_parser

    parser = command_parser()
    (commands,) = (item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    classes = [arguments_class(name) for name, module in FRAMEWORKS.items() if is_installed(module)]
    fields = {item.name: item for cls in classes for item in cls.fields() if "help" in item.metadata}
    for name in RUNS:
        command = commands.choices[name]
        for action in command._actions:
            if action.dest == "files":
                action.complete = shtab.FILE
        for field, item in fields.items():
            choices = choices_of(item) or None
            help = item.metadata["help"].replace("%", "%%")
            command.add_argument(f"--{field}", choices=choices, metavar="VALUE", help=help)
    return parser


def _parser() -> Parser:
    parser = Parser(
        prog="trackside completion",
        description="Print the script with which a shell completes trackside.",
        epilog='bash: eval "$(trackside completion bash)" in ~/.bashrc. zsh: trackside completion zsh > a folder of '
        "$fpath/_trackside. fish: trackside completion fish > ~/.config/fish/completions/trackside.fish.",
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser
