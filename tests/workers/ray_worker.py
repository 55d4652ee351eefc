"""A search with Ray Tune, as a script: ``ray_worker.py FRAMEWORK FOLDER`` writes what it found into the folder.

It is a script, since Ray's processes take over what is defined in one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
from both.conftest import FACTORIES, classified
from ray import tune

from trackside import CSVLoggerCallback, TrainerCallback
from trackside.callbacks.errors import TracksideError

ROOT = Path(__file__).parents[1]


class Marks(TrainerCallback):
    """Leaves a file where a trial has its folder."""

    def __init__(self, word: str) -> None:
        self.word = word

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        (Path(args.output_dir) / "mark").write_text(f"{self.word} {args.learning_rate} {state.trial_name}")


def main(framework: str, folder: Path) -> None:
    make = FACTORIES[framework](folder)
    trainer = make(
        model_init=lambda: FACTORIES[framework](folder).model(),
        eval_dataset=make.from_arrays(*classified(24, seed=1)),
        max_steps=6,
        eval_strategy="steps",
        eval_steps=3,
        output_dir=str(folder / "out"),
        callbacks=[Marks("given")],
    )
    trainer.add_callback(CSVLoggerCallback(), name="later")
    trainer.pop_callback("progress")
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": tune.grid_search([1e-6, 0.05])},
        lambda metrics: metrics["eval_loss"],
        n_trials=1,
        backend="ray",
        verbose=0,
    )
    trainer.train(trial=best)
    found = {"best": best.hyperparameters, "objective": best.objective, "again": trainer.evaluate()["eval_loss"]}
    found["names"] = list(trainer.callback_report)
    try:
        trainer.hyperparameter_search(
            lambda trial: {"learning_rate": tune.choice([-1.0])}, n_trials=1, backend="ray", verbose=0
        )
    except TracksideError as error:
        found["error"] = str(error)
    ray.shutdown()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
