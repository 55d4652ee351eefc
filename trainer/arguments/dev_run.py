"""What ``fast_dev_run`` means for the other arguments: every step is logged, evaluated and saved, in another folder."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from .enums import IntervalStrategy, SaveStrategy

PREFIX = "trackside-dev-run-"
JOB = (
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TF_CONFIG"),
    *("SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE"),
)
"""Variables by which launchers tell the processes of one job from others."""


def dev_run_values(args: Any) -> dict[str, Any]:
    """Return the fields that ``fast_dev_run`` changes, with their values.

    Args:
        args: The arguments as they were given; ``place`` tells the processes of the job from those of others.
    """
    folder, steps = str(dev_run_folder(args.output_dir, args.world_size > 1)), IntervalStrategy.STEPS
    evaluated = {"eval_strategy": steps, "eval_steps": 1, "eval_delay": 0} if args.eval_strategy != "no" else {}
    return {
        "output_dir": folder,
        "logging_dir": os.path.join(folder, "runs"),
        "staging_dir": None,
        "logging_strategy": steps,
        "logging_steps": 1,
        "save_strategy": SaveStrategy("steps"),
        "save_steps": 1,
        **evaluated,
        "save_only_model": False,
        "limit_eval_batches": 1,
        "report_to": [],
        "resume_from_checkpoint": None,
        "overwrite_output_dir": True,
    }


def dev_run_folder(output_dir: str, is_shared: bool) -> Path:
    """Return the temporary folder that takes the place of ``output_dir``, the same in all processes of a job.

    Args:
        is_shared: Whether other processes take part, which the address of the job's first process tells.
    """
    if Path(output_dir).name.startswith(PREFIX):
        return Path(output_dir)
    job = [os.environ.get(name, "") for name in JOB]
    parts = [*job, os.path.abspath(output_dir)] if is_shared else [str(os.getpid()), os.path.abspath(output_dir)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir(), f"{PREFIX}{getpass.getuser()}-{digest}")
