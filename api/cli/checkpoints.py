"""The command `trackside checkpoints`: list, verify, compare and delete the checkpoints of a folder or an address."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trackside.callbacks._util.display import table
from trackside.callbacks.errors import ConfigError, did_you_mean
from trackside.cli.parser import Parser
from trackside.cli.refusals import told_plainly
from trackside.report.checkpoint_entries import Entry, entries_in, paths_in, size_text
from trackside.trainer.checkpointing.discovery import find_checkpoints
from trackside.trainer.checkpointing.locks.run_lock import locked
from trackside.trainer.checkpointing.store import CheckpointStore, surplus
from trackside.trainer.staging import is_address

COMMANDS = ("ls", "verify", "diff", "prune")


def main(argv: Sequence[str]) -> int:
    """Run a command on checkpoints; return the exit code, which is 1 if one that was to be verified is not whole.

    Raises:
        ConfigError: If a path or an option is wrong.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        near = did_you_mean(argv[0], COMMANDS)
        raise ConfigError(f"checkpoints {argv[0]}: this is not a command; available: {', '.join(COMMANDS)}.{near}")
    options = _parser().parse_args(argv)
    with told_plainly():
        return int(options.run(options))


# -- commands ---------------------------------------------------------------------------------------------------------


def ls(options: argparse.Namespace) -> int:
    """List the checkpoints: whole or not, of which run, how large, how the metric stood."""
    entries = entries_in(options.out, thorough=False)
    if options.json:
        _print_json([asdict(entry) for entry in entries])
        return 0
    if not entries:
        print(f"{options.out}: there are no checkpoints")
        return 0
    rows: list[tuple[str, ...]] = [("name", "step", "size", "age", "run", "", "evaluation", "whole")]
    for entry in entries:
        marks = " ".join(word for word, holds in (("best", entry.is_best), ("newest", entry.is_newest)) if holds)
        size, run = size_text(entry.size_bytes), (entry.run_id or "?")[:8]
        whole = "yes" if entry.reason is None else f"no: {entry.reason}"
        columns = (str(entry.step), size, _age(entry.committed_at), run, marks, entry.metric or "", whole)
        rows.append((entry.name, *columns))
    print(table(rows, right=[1, 2, 3]))
    return 0


def check(options: argparse.Namespace) -> int:
    """Read every file of all checkpoints, or of one, and compare it with the manifest; exit with 1 if one is broken."""
    entries = entries_in(options.out, thorough=True)
    if options.name is not None:
        known = [entry.name for entry in entries]
        entries = [entry for entry in entries if entry.name == options.name]
        if not entries:
            raise ConfigError(f"{options.out}: {options.name} does not exist.{did_you_mean(options.name, known)}")
    if not entries:
        raise ConfigError(f"{options.out}: there are no checkpoints to verify")
    if options.json:
        _print_json([{"name": entry.name, "whole": entry.reason is None, "reason": entry.reason} for entry in entries])
    else:
        print("\n".join(f"{entry.name}: {entry.reason or 'whole'}" for entry in entries))
    return int(any(entry.reason is not None for entry in entries))


def diff(options: argparse.Namespace) -> int:
    """Compare two checkpoints: arguments, state, callbacks, weights, optimizer."""
    from trackside.cli.checkpoint_diff import compare, shown

    if options.top < 0:
        raise ConfigError(f"command line: --top {options.top}: a whole number from 0 is needed")
    for path in (options.first, options.second):
        if is_address(path):
            raise ConfigError(f"{path}: diff reads whole files, and compares local checkpoints only; download it first")
        if not Path(path).is_dir():
            paths_in(Path(path))
    differences = compare(Path(options.first), Path(options.second))
    if options.json:
        _print_json(differences)
    else:
        print(shown(differences, top=options.top))
    return 0


def prune(options: argparse.Namespace) -> int:
    """Delete old checkpoints; the best and the newest of each run always stay, and what is not whole is left alone."""
    if options.keep < 1:
        raise ConfigError(f"command line: --keep {options.keep}: a whole number from 1 is needed")
    if is_address(options.out):
        raise ConfigError(f"{options.out}: prune deletes in local folders only; save_total_limit rotates at an address")
    if options.dry_run or not Path(options.out).is_dir():
        return _prune(options)
    with locked(Path(options.out), "trackside checkpoints prune", is_needed=False):
        return _prune(options)


def _prune(options: argparse.Namespace) -> int:
    entries = entries_in(options.out, thorough=True)
    runs = sorted({entry.run_id for entry in entries if entry.run_id is not None})
    if options.run_id is not None:
        runs = [_full(options.run_id, runs)]
    doomed = [entry for run_id in runs for entry in doomed_of(entries, run_id, options.keep)]
    if doomed and not options.dry_run and _is_refused(doomed, options):
        return 1
    for run_id in runs if not options.dry_run else ():
        names = {entry.name for entry in doomed if entry.run_id == run_id}
        stay = [path for path in find_checkpoints(options.out) if path.name not in names]
        CheckpointStore(options.out, run_id=run_id, save_total_limit=1).rotate(*stay)
    _tell_pruned(options, entries, doomed)
    return 0


def doomed_of(entries: Sequence[Entry], run_id: str, keep: int) -> list[Entry]:
    """Return the checkpoints of a run to delete so that ``keep`` whole ones remain; the best and newest remain too."""
    whole = {entry.name: entry for entry in entries if entry.run_id == run_id and entry.reason is None}
    kept = {entry.name for entry in whole.values() if entry.is_best or entry.is_newest}
    return [whole[path.name] for path in surplus([Path(name) for name in whole], keep, kept)]


def _full(given: str, runs: Sequence[str]) -> str:
    """Return the id of the run that begins with ``given``."""
    found = [run_id for run_id in runs if run_id.startswith(given)]
    if len(found) != 1:
        why = "several runs begin so" if found else f"no run has this id; available: {', '.join(runs) or 'none'}"
        raise ConfigError(f"command line: --run {given}: {why}.{did_you_mean(given, runs)}")
    return found[0]


def _is_refused(doomed: Sequence[Entry], options: argparse.Namespace) -> bool:
    """Ask at a terminal, and nowhere else, whether to delete."""
    if options.yes or options.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    answer = input(f"Delete {', '.join(entry.name for entry in doomed)} ({_sum_text(doomed)})? [y/N] ")
    return answer.strip().lower() not in ("y", "yes")


def _tell_pruned(options: argparse.Namespace, entries: Sequence[Entry], doomed: Sequence[Entry]) -> None:
    left = [] if options.dry_run else [entry.name for entry in doomed if (Path(options.out) / entry.name).exists()]
    if options.json:
        gone = [entry.name for entry in doomed if entry.name not in left]
        size = sum(entry.size_bytes for entry in doomed if entry.name not in left)
        _print_json({"dry_run": options.dry_run, "deleted": gone, "bytes": size, "failed": left})
        return
    verb = "would delete" if options.dry_run else "deleted"
    lines = [f"{verb} {entry.name} ({size_text(entry.size_bytes)})" for entry in doomed if entry.name not in left]
    lines += [f"could not delete {name}" for name in left]
    lines += [f"left alone: {entry.name} {entry.reason}" for entry in entries if entry.reason is not None]
    done = [entry for entry in doomed if entry.name not in left]
    print("\n".join([*lines, f"{verb} {len(done)} of {len(entries)} checkpoints, {_sum_text(done)}"]))


# -- text -------------------------------------------------------------------------------------------------------------


def _sum_text(entries: Iterable[Entry]) -> str:
    return size_text(sum(entry.size_bytes for entry in entries))


def _age(committed_at: int | None) -> str:
    if committed_at is None:
        return "?"
    seconds = max(time.time() - committed_at / 1e9, 0.0)
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def _print_json(value: Any) -> None:
    """Print JSON; a number that JSON does not have becomes text."""
    plain = json.loads(json.dumps(value, default=str), parse_constant=str)
    print(json.dumps(plain, indent=2))


def _parser() -> Parser:
    summary = "List, verify, compare and delete the checkpoints of a folder or an address."
    parser = Parser(prog="trackside checkpoints", description=summary)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run in zip(COMMANDS, (ls, check, diff, prune), strict=True):
        summary = (run.__doc__ or "").strip()
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        command.add_argument("--json", action="store_true", help="print JSON")
        if run is diff:
            command.add_argument("first", metavar="A", help="a checkpoint")
            command.add_argument("second", metavar="B", help="another")
            command.add_argument("--top", type=int, default=10, metavar="N", help="tensors to show; default: 10")
            continue
        command.add_argument("out", metavar="OUT", help="folder of a run, or an address such as s3://bucket/run")
        if run is check:
            command.add_argument("name", nargs="?", metavar="NAME", help="one checkpoint; default: all")
        if run is prune:
            keep = "whole checkpoints that remain of each run"
            command.add_argument("--keep", type=int, required=True, metavar="N", help=keep)
            run_id = "only of this run; the first letters are enough"
            command.add_argument("--run", dest="run_id", metavar="ID", help=run_id)
            command.add_argument("--dry-run", action="store_true", help="delete nothing")
            command.add_argument("--yes", action="store_true", help="do not ask at a terminal")
    return parser
