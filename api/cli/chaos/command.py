"""The command `trackside chaos`: kill a job at random instants, resume it, and compare it with one that was not."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trackside.callbacks._util.display import table
from trackside.callbacks.errors import ConfigError
from trackside.cli.chaos.campaign import OUT, TRACE, Campaign, place, told
from trackside.cli.chaos.streams import END, Difference
from trackside.cli.parser import Parser, local_path

EXACT, DIFFERS = 0, 1
"""Exit codes; what cannot be run ends with that of a wrong configuration."""

OWN_OPTIONS = {"--kills": 1, "--seed": 1, "--folder": 1, "--json": 0, "--help": 0, "-h": 0}

JOB = ("-m", "trackside.cli.chaos.job", TRACE)

SHOWN = 10
"""Differences of a run that are printed."""

EPILOG = f"""\
A configuration is trained with --output_dir and --resume_from_checkpoint true; further options are its own
(--args.seed sets its seed). A script must write its checkpoints into the folder that {OUT} in its command, or the
variable TRACKSIDE_OUTPUT_DIR, names, and call trainer.train(resume_from_checkpoint=True).

Exit codes: 0 exact, 1 a run differs, fails or hangs, 2 nothing can be said."""


def main(argv: Sequence[str]) -> int:
    """Kill a job and print what came of it; return the exit code.

    Raises:
        ConfigError: If the command line is wrong, or the job cannot be judged.
    """
    options, command = parsed(argv)
    if options.kills < 1:
        raise ConfigError(f"command line: --kills {options.kills}: a whole number from 1 is needed")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="trackside-chaos-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(f"command line: --folder {folder}: the folder is not empty")

    def tell(line: str) -> None:
        print(line, file=sys.stderr if options.json else sys.stdout, flush=True)

    if TRACE not in command:
        tell(
            f"{command[0]} is not Python running a script or a module: its updates are not traced, only its checkpoints"
        )
    campaign = Campaign(command, folder, kills=options.kills, seed=options.seed, tell=tell)
    try:
        campaign.run()
    except (KeyboardInterrupt, SystemExit):
        tell(f"stopped, and the job with it; what it wrote is in {folder}")
        raise
    print(json.dumps(as_json(campaign), indent=2) if options.json else f"\n{summary(campaign)}")
    if not all(run.is_exact for run in campaign.runs):
        return DIFFERS
    if options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return EXACT


def parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the command of the job with `OUT` and `TRACE` in it."""
    from trackside.cli.command_line import split_overrides

    own_words, job = [*argv], []
    if "--" in own_words:
        at = own_words.index("--")
        own_words, job = own_words[:at], own_words[at + 1 :]
    own, overrides = split_overrides(own_words, OWN_OPTIONS)
    options = _parser().parse_args(own)
    if bool(options.files) == bool(job):
        raise ConfigError("command line: either a configuration or, behind --, the command of a script is needed")
    if job and overrides:
        raise ConfigError(f"command line: --{overrides[0][0]}: options of the script belong behind its name")
    if not job:
        words = [
            *(f"--{key}={text}" for key, text in overrides),
            f"--output_dir={OUT}",
            "--resume_from_checkpoint=true",
        ]
        job = [sys.executable, "-m", "trackside", "train", *options.files, *words]
    return options, with_trace(job)


def with_trace(command: Sequence[str]) -> list[str]:
    """Return a command of Python with the program that traces it in between; any other as it is.

    Example:
        >>> with_trace(["python", "-u", "train.py", "{out}"])
        ['python', '-u', '-m', 'trackside.cli.chaos.job', '{trace}', 'train.py', '{out}']
    """
    words = list(command)
    if not Path(words[0]).name.startswith("python"):
        return words
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c", "-"):
        at += 2 if words[at] in ("-W", "-X") else 1
    is_program = at < len(words) and (words[at] == "-m" or not words[at].startswith("-"))
    return [*words[:at], *JOB, *words[at:]] if is_program else words


def summary(campaign: Campaign) -> str:
    """Return what came of all runs as text."""
    rows = [("run", "kills at steps", "inside a save", "resumed from", "result")]
    for run in campaign.runs:
        steps = ", ".join(str(kill.step) for kill in run.kills)
        saves = str(sum(kill.is_in_save for kill in run.kills))
        origins = ", ".join("-" if kill.resumed_from is None else str(kill.resumed_from) for kill in run.kills)
        result = "exact" if run.is_exact else "differs" if run.failure is None else run.failure.partition(":")[0]
        rows.append((str(run.number), steps, saves, origins, result))
    lines = [table(rows, right=[0, 2]), ""]
    for run in campaign.runs:
        if run.differs:
            lines += [f"run {run.number} differs, first at {place(run)}", *_more(campaign, run.number)]
        elif run.failure:
            lines.append(f"run {run.number} {run.failure}")
    exact = sum(len(run.kills) for run in campaign.runs if run.is_exact)
    in_saves = sum(kill.is_in_save for run in campaign.runs for kill in run.kills)
    lines.append(
        f"exact {exact} of {campaign.kills} kills, in {len(campaign.runs)} runs of {campaign.steps} steps; "
        f"{in_saves} of the kills inside a save"
    )
    if campaign.left_out:
        lines.append(f"left out, since they differ without a kill: {', '.join(campaign.left_out)}")
    if exact != campaign.kills:
        lines.append(f"the runs that differ, and the whole one, are in {campaign.folder}")
    return "\n".join(lines)


def _more(campaign: Campaign, number: int) -> list[str]:
    run = campaign.runs[number - 1]
    lines = [f"  {told(item)}" for item in run.differs[:SHOWN]]
    if len(run.differs) > SHOWN:
        lines.append(f"  and {len(run.differs) - SHOWN} more (--json)")
    return lines


def as_json(campaign: Campaign) -> dict[str, Any]:
    """Return what came of all runs as plain data; the step of a difference is null at the end of the run."""
    runs = [
        {
            "run": run.number,
            "exact": run.is_exact,
            "failure": run.failure,
            "kills": [asdict(kill) for kill in run.kills],
            "first": place(run) if run.differs else None,
            "differs": [_plain(item) for item in run.differs],
            "live": [_plain(item) for item in run.live],
        }
        for run in campaign.runs
    ]
    exact = sum(len(run.kills) for run in campaign.runs if run.is_exact)
    return {
        "exact": exact == campaign.kills,
        "kills": campaign.kills,
        "exact_kills": exact,
        "steps": campaign.steps,
        "left_out": campaign.left_out,
        "folder": str(campaign.folder),
        "runs": runs,
    }


def _plain(item: Difference) -> dict[str, Any]:
    return {"step": None if item.step == END else item.step, "stream": item.stream}


def _parser() -> Parser:
    parser = Parser(
        prog="trackside chaos",
        usage="trackside chaos [--kills N] [...] (run.yaml ... [--KEY VALUE ...] | -- python script.py ...)",
        description="Kill a job at random instants, resume it, and compare it with one that was not killed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", metavar="run.yaml", help="configuration files; the later wins")
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="how many kills; default: 10")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the instants; default: 0")
    folder = "an empty folder to run in, which is kept; default: temporary"
    parser.add_argument("--folder", type=local_path, metavar="FOLDER", help=folder)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
