"""The main job, as ``tox -e demo`` runs it: handwritten digits on both frameworks, with the results side by side.

It runs `trackside train` with examples/digits.yaml and examples/digits_tf.yaml. If you stop it and run it again, it
continues from the newest checkpoint; after a complete run, the next one starts from the beginning. ``--only pytorch``
runs one of the two. Other options go to `trackside train`, for example
``python examples/demo.py --learning_rate 3e-3``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from trackside.cli.command_line import split_overrides
from trackside.cli.main import main
from trackside.cli.quiet.tensorflow_import import quiet_tensorflow
from trackside.cli.report import table
from trackside.cli.runner import is_complete
from trackside.config.run_config import load_config

CONFIGS = {"pytorch": Path(__file__).with_name("digits.yaml"), "tensorflow": Path(__file__).with_name("digits_tf.yaml")}
MODULES = {"pytorch": "torch", "tensorflow": "tensorflow"}
SHOWN = ("test_accuracy", "test_loss", "eval_accuracy", "train_loss", "train_runtime", "train_steps_per_second")


def run(framework: str, options: list[str]) -> int:
    """Train on the digits, from the newest checkpoint if the last run was cut short; return the exit code."""
    config, output_dir = CONFIGS[framework], output_dir_of(framework, options)
    if is_complete(output_dir):
        print(f"The last run is complete; {output_dir} is cleared for a new one.")
        shutil.rmtree(output_dir)
    elif any(output_dir.glob("checkpoint-*")):
        print(f"The last run was cut short; going on from the newest checkpoint in {output_dir}.")
    return main(["train", str(config), "--resume_from_checkpoint", "true", *options])


def output_dir_of(framework: str, options: list[str]) -> Path:
    return Path(load_config([CONFIGS[framework]], split_overrides(options)[1]).args.output_dir)


def side_by_side(frameworks: list[str], options: list[str]) -> str:
    """Return the results of both frameworks as a table."""
    results = [json.loads((output_dir_of(name, options) / "all_results.json").read_text()) for name in frameworks]
    rows = [[name, *(f"{result[name]:.4f}" for result in results)] for name in SHOWN]
    return table([["", *frameworks], *rows], right=range(1, len(frameworks) + 1))


def run_all() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CONFIGS))
    chosen, options = parser.parse_known_args()
    frameworks = [name for name in CONFIGS if chosen.only in (None, name) and find_spec(MODULES[name])]
    for framework in frameworks:
        print(f"\n===== {framework} =====\n", flush=True)
        code = run(framework, options)
        if code:
            return code
    print(f"\nSide by side\n{side_by_side(frameworks, options)}")
    return 0


if __name__ == "__main__":
    with quiet_tensorflow():
        sys.exit(run_all())
