"""`trackside replay`: send the events of a finished run again, to other callbacks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import yaml

from trackside.callbacks.errors import ConfigError, TracksideError


def main(argv: Sequence[str]) -> int:
    """Replay a journal and print how it went; return the exit code.

    Raises:
        ConfigError: If the journal, a callback or an option is wrong.
    """
    from trackside.report import costs
    from trackside.trainer.replay import replay

    options, rest = parser().parse_known_args(list(argv))
    callbacks = callback_map(options.callback, rest)
    try:
        replayed = replay(options.journal, callbacks, output_dir=options.output_dir)
    except ConfigError:
        raise
    except (OSError, TracksideError) as error:
        raise ConfigError(f"{options.journal}: {error}") from error
    state = replayed.state
    print(f"replayed up to step {state.global_step} of {state.max_steps}, {len(state.log_history)} records")
    if replayed.stopped_at is not None:
        print(f"stopped at step {replayed.stopped_at}: {state.stop_reason}")
    print(costs(replayed.callback_report, sum(item.seconds for item in replayed.callback_report.values())))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's own options; those of callbacks are `callback_map`'s."""
    found = argparse.ArgumentParser(prog="trackside replay", description=__doc__, allow_abbrev=False)
    found.add_argument("journal", help="the journal of the run, written by the callback 'journal'")
    found.add_argument("--callback", action="append", default=[], metavar="NAME", help="a callback to replay to")
    found.add_argument("--output_dir", help="folder for what callbacks write; default: replay, beside the journal")
    found.epilog = "Options of a callback: --callbacks.NAME.OPTION VALUE"
    return found


def callback_map(names: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a config's map of callbacks from their names and ``--callbacks.NAME.OPTION VALUE`` pairs.

    Example:
        >>> callback_map(["csv"], ["--callbacks.early_stopping.patience", "3", "--callbacks.csv.path=a.csv"])
        {'csv': {'path': 'a.csv'}, 'early_stopping': {'patience': 3}}
    """
    found: dict[str, Any] = {name: {} for name in names}
    words = list(overrides)
    while words:
        key, equals, text = words.pop(0).partition("=")
        parts = key.split(".")
        if parts[0] != "--callbacks" or len(parts) != 3:
            raise ConfigError(f"{key!r} is not understood; options of a callback are --callbacks.NAME.OPTION VALUE")
        if not equals:
            text = words.pop(0) if words else "true"
        found.setdefault(parts[1], {})[parts[2]] = yaml.safe_load(text)
    if not found:
        raise ConfigError("there is nothing to replay to; name a callback with --callback")
    return found
