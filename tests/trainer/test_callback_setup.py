from __future__ import annotations

from importlib.util import find_spec

from trackside.trainer.callback_setup import trackers

PACKAGES = {
    "codecarbon": "codecarbon",
    "comet": "comet_ml",
    "mlflow": "mlflow",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}


def test_all_stands_for_the_trackers_that_are_installed_and_for_nothing_else():
    installed = {name for name, package in PACKAGES.items() if find_spec(package) is not None}

    assert set(trackers("all")) == installed
    assert trackers(["csv", "all"])[0] == "csv"
