"""The parser of a command line: it answers what it does not know with the nearest name, and what is not local."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trackside.callbacks.errors import did_you_mean
from trackside.trainer.staging import is_address


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names only; those of a command are its own also in the usage that an error shows."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and end with an error that names the nearest option if something is left."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            is_option = word.startswith("-")
            near = did_you_mean(word, self._option_string_actions) if is_option else ""
            self.error(
                f"{word}: {'this is not an option' if is_option else 'this is more than the command takes'}.{near}"
            )
        return options, unknown


def local_path(text: str) -> Path:
    """Return a local path that an option gives, with ``~`` expanded.

    Raises:
        argparse.ArgumentTypeError: If it is an address, which would become a folder of that name.
    """
    if is_address(text):
        raise argparse.ArgumentTypeError(f"{text} is an address; a local path is needed")
    return Path(text).expanduser()
