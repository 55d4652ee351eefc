"""The main job, as ``tox -e demo`` runs it: `trackside train examples/digits.yaml`, and what came out.

Stop it and run it again, and it goes on where it was; when it has come to its end, the next run starts afresh.
Options go to `trackside train`, for instance ``python examples/demo.py --learning_rate 3e-3``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from trackside.cli import main, split_overrides
from trackside.config import load_config
from trackside.launch import is_complete

CONFIG = Path(__file__).with_name("digits.yaml")


def run(options: list[str]) -> int:
    """Train on the digits, from the newest checkpoint if the last run was cut short; return the exit code."""
    output_dir = Path(load_config([CONFIG], split_overrides(options)[1]).args.output_dir)
    if is_complete(output_dir):
        print(f"The last run is complete; {output_dir} is cleared for a new one.")
        shutil.rmtree(output_dir)
    elif any(output_dir.glob("checkpoint-*")):
        print(f"The last run was cut short; going on from the newest checkpoint in {output_dir}.")
    return main(["train", str(CONFIG), "--resume_from_checkpoint", "true", *options])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
