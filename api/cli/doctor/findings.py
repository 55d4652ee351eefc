"""Findings of `trackside doctor`: packages, devices, launcher, trackers, callbacks, processes, and their problems.

Imports that can crash (a framework's native part, a package of callbacks) run in a process of their own. Only the
other processes of the job are contacted.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trackside.callbacks import registry
from trackside.callbacks.errors import TracksideError, describe
from trackside.cli.doctor.probes import probe
from trackside.cli.parser import Parser
from trackside.cli.report import block
from trackside.trainer.distributed.launcher import LAUNCHERS, ProcessRank, detect_launcher, rendezvous_endpoint
from trackside.trainer.pytorch.availability import has_apex, why_no_apex, why_no_xla
from trackside.trainer.tensorflow.distributed.tf_config import detect_tf_config

NO_FRAMEWORK = (
    "neither torch nor tensorflow is installed, so that nothing can be trained. "
    "Run: pip install 'trackside[torch]', or pip install 'trackside[tensorflow]'"
)

OTHER_VARIABLES = (
    *("LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    *("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "TF_CONFIG", "PJRT_DEVICE", "CUDA_VISIBLE_DEVICES"),
)


def main(argv: Sequence[str]) -> int:
    """Print the findings, once for all processes; return 1 if there is a problem."""
    parser = Parser(
        prog="trackside doctor",
        description="Print what a run would use. Under torchrun, SLURM or MPI also check that the processes reach "
        "each other: torchrun --nproc-per-node=2 -m trackside doctor",
        epilog="The exit code is 1 if there is a problem.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="longest wait for a process")
    options = parser.parse_args(argv)
    try:
        place = detect_launcher()
    except TracksideError:  # `_launcher` reports it
        place = ProcessRank()
    ranks, failure = _check_ranks(place, options.timeout)
    if failure is not None:
        print(f"trackside doctor: {failure}", file=sys.stderr, flush=True)
    if place.rank:
        return int(failure is not None)
    findings = examine(ranks, failure)
    print(json.dumps(findings, indent=2) if options.json else as_text(findings), flush=True)
    return int(not findings["ok"])


def _check_ranks(place: ProcessRank, timeout_s: float) -> tuple[dict[str, Any] | None, str | None]:
    """Return what the check of the processes of a job found, and why it failed if it did."""
    if place.world_size == 1:
        return None, None
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # the error that is raised says the same in one line
    try:
        from trackside.cli.doctor.ranks import check

        return check(place, timeout_s), None
    except Exception as error:  # every failure is a finding
        return None, f"rank {place.rank}: {describe(error)}"


# -- the findings -----------------------------------------------------------------------------------------------------


def examine(ranks: Mapping[str, Any] | None = None, failure: str | None = None) -> dict[str, Any]:
    """Return all findings, with ``ok`` and the list of ``problems``, as values that JSON has.

    Args:
        ranks: The findings about the processes of a job; see `trackside.cli.doctor.ranks.check`.
        failure: Why there are none.
    """
    probes = probe("torch", "tensorflow", "callbacks")
    problems = [f"{name}: {found['error']}" for name, found in probes.items() if "error" in found]
    problems += [] if probes["torch"] or probes["tensorflow"] else [NO_FRAMEWORK]
    findings = {
        "packages": {
            "python": f"{platform.python_version()}, {sys.executable}",
            **{name: version(name) for name in ("trackside", "numpy")},
            **{name: probes[name].get("version") or probes[name].get("error") for name in ("torch", "tensorflow")},
            "keras": version("keras"),
        },
        "devices": _devices(probes["torch"], probes["tensorflow"]),
        "launcher": _launcher(problems),
        "extras": _extras(problems),
        "trackers": {name: _tracker(*details) for name, details in TRACKERS.items()},
        "callbacks": _callbacks(probes["callbacks"].get("failed", {}), problems),
        "ranks": ranks,
    }
    problems += [] if failure is None else [failure]
    problems += [] if ranks is None else ranks["problems"]
    return {"ok": not problems, "problems": problems, **findings}


def version(package: str) -> str | None:
    """Return the version of a package, without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(torch: Mapping[str, Any], tensorflow: Mapping[str, Any]) -> dict[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"CPUs": f"{os.cpu_count()}, {usable} for this process"}
    found |= {f"torch {name}": torch[name] for name in ("CUDA", "MPS", "threads", "backends") if name in torch}
    return found | ({"tensorflow": tensorflow["devices"]} if "devices" in tensorflow else {})


def _launcher(problems: list[str]) -> dict[str, Any]:
    known = dict.fromkeys([*(name for names in LAUNCHERS.values() for name in names), *OTHER_VARIABLES])
    found: dict[str, Any] = {"variables": {name: os.environ[name] for name in known if name in os.environ}}
    try:
        place = detect_launcher()
        found["Trainer"] = in_words(place)
        if place.world_size > 1:
            found["meeting point"] = ":".join(map(str, rendezvous_endpoint(place)))
        found["TFTrainer"] = in_words(detect_tf_config() or ProcessRank())
    except TracksideError as error:
        problems.append(str(error))
    return found


def in_words(place: ProcessRank) -> str:
    """Return the place of a process among all, in words.

    Example:
        >>> in_words(ProcessRank(1, 4, 1, "torchrun")), in_words(ProcessRank())
        ('rank 1 of 4, 1 on its machine, by torchrun', 'one process on its own')
    """
    if place.launcher is None:
        return "one process on its own"
    local = f", {place.local_rank} on its machine" if place.local_rank >= 0 else ""
    return f"rank {place.rank} of {place.world_size}{local}, by {place.launcher}"


def _extras(problems: list[str]) -> dict[str, str]:
    no_amp, no_xla = why_no_apex("amp"), why_no_xla()
    found = version("torch_xla")
    if no_xla is not None and found is not None and os.environ.get("PJRT_DEVICE") == "TPU":
        problems.append(f"PJRT_DEVICE=TPU: {no_xla}")
    return {
        "apex.amp": no_amp or "usable",
        "apex.optimizers": "there" if has_apex("optimizers") else "not there",
        "torch_xla": no_xla or f"{found}, fits torch; not imported here",
    }


def _callbacks(failed: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    claims = registry.claims_by_name()
    for name, rivals in claims.items():
        if len(rivals) > 1:
            problems.append(f"callback {name}: claimed by {' and '.join(rival.origin for rival in rivals)}")
    problems.extend(f"callback {name}: {reason}" for name, reason in failed.items())
    return {"registered": sorted(claims), "failed": failed}


# -- trackers ---------------------------------------------------------------------------------------------------------

# package, variables and files that configure where it sends records, and where they go without these
TRACKERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], str]] = {
    "tensorboard": ("tensorboard", (), (), "files under output_dir"),
    "wandb": ("wandb", ("WANDB_API_KEY", "WANDB_MODE"), ("~/.netrc", "~/_netrc"), "no key: WANDB_MODE=offline"),
    "mlflow": ("mlflow", ("MLFLOW_TRACKING_URI",), (), "a local store"),
    "comet": ("comet_ml", ("COMET_API_KEY",), ("~/.comet.config",), "no key: files to upload"),
    "codecarbon": ("codecarbon", (), (), "files under output_dir"),
    "trackio": ("trackio", ("TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"), (), "a local database"),
}


def _tracker(package: str, variables: Sequence[str], files: Sequence[str], without: str) -> dict[str, str | None]:
    set_here = [name for name in variables if os.environ.get(name)]
    set_here += [name for name in files if Path(name).expanduser().exists()]
    return {"version": version(package), "configured": f"by {', '.join(set_here)}" if set_here else without}


# -- as text ----------------------------------------------------------------------------------------------------------


def as_text(findings: Mapping[str, Any]) -> str:
    """Return the findings as tables; problems come last."""
    launcher, trackers, callbacks = dict(findings["launcher"]), findings["trackers"], findings["callbacks"]
    variables = launcher.pop("variables")
    tables: dict[str, list[Sequence[str]]] = {
        "Packages": [(name, found or "not installed") for name, found in findings["packages"].items()],
        "Devices": [*findings["devices"].items()],
        "Place": [*launcher.items(), *variables.items()],
        "Extras": [*findings["extras"].items()],
        "Trackers": [(name, item["version"] or "not installed", item["configured"]) for name, item in trackers.items()],
    }
    registered, failed = len(callbacks["registered"]), len(callbacks["failed"])
    blocks = [block(title, rows) for title, rows in tables.items()]
    blocks.append(f"Callbacks\n  {registered} registered, {failed} cannot be imported")
    if findings["ranks"] is not None:
        blocks.append(_ranks_as_text(findings["ranks"]))
    problems = [f"  {problem}" for problem in findings["problems"]]
    return "\n\n".join([*blocks, "\n".join(["Problems", *problems]) if problems else "Nothing is wrong."])


def _ranks_as_text(ranks: Mapping[str, Any]) -> str:
    head = tuple(ranks["processes"][0])
    rows = [tuple(str(process[name]) for name in head) for process in ranks["processes"]]
    timings = [f"  {name}: {value}" for name, value in ranks["collective"].items()]
    return "\n".join([block("Processes", [head, *rows]), *timings])
