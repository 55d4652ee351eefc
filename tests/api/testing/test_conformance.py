"""Every callback of ours passes the check of callbacks."""

from __future__ import annotations

import sys
import types

import pytest

from trackside.callbacks import registry
from trackside.testing import ConformanceError, check_callback, installed_frameworks

BUILT_IN = [
    *("control_files", "csv", "early_stopping", "ema", "finetune_schedule", "journal", "jsonl"),
    *("learning_rate_monitor", "loss_guard", "printer", "progress", "straggler_monitor", "swa", "tensorboard"),
    *("terminate_on_nan", "throughput_monitor"),
]

OPTIONS = {
    "codecarbon": {"country_iso_code": "FRA", "measure_power_secs": 1.0},
    "comet": {"online": False},
    "early_stopping": {"early_stopping_patience": 5},
    "finetune_schedule": {"stages": {0: ["*"]}},
    "mlflow": {"tracking_uri": "sqlite:///mlflow.db"},
    "time_limit": {"minutes": 5},
    "wandb": {"mode": "offline", "settings": {"silent": True, "console": "off", "x_disable_stats": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_callbacks_pass_on_both_frameworks(name):
    if name == "tensorboard":
        pytest.importorskip("tensorboard")

    check_callback(lambda: registry.load(name)(**OPTIONS.get(name, {})))


PACKAGES = {
    "codecarbon": "codecarbon",
    "comet": "comet_ml",
    "mlflow": "mlflow",
    "notebook": "IPython",
    "profiler": "json",
    "rich_progress": "rich",
    "time_limit": "json",
    "trackio": "trackio",
    "wandb": "wandb",
}


def test_every_registered_callback_is_checked():
    ours = {name for name, claim in registry.registered().items() if claim.value.startswith("trackside.")}

    assert ours - {"rank_time_monitor"} == {*BUILT_IN, *PACKAGES}  # the former name of straggler_monitor


@pytest.mark.parametrize(
    "name",
    [
        *("notebook", "profiler", "rich_progress", "time_limit"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("codecarbon", "comet", "mlflow", "trackio", "wandb")),
    ],
)
def test_other_integrations_pass(name, tmp_path, monkeypatch, request):
    pytest.importorskip(PACKAGES[name])
    if name == "comet":
        request.getfixturevalue("quick_comet")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")

    check_callback(lambda: registry.load(name)(**OPTIONS.get(name, {})), frameworks=installed_frameworks()[:1])


MADE = """
from trackside import TrainerCallback

class Counts(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        self.steps = state.global_step / wrong
"""


@pytest.mark.parametrize("name", ["cell", "package.cell", "__main__"])
def test_a_class_of_a_module_that_was_made_by_hand_is_checked(name, monkeypatch):
    module = types.ModuleType(name)
    for part in ("package", name):
        monkeypatch.setitem(sys.modules, part, module if part == name else types.ModuleType(part))
    exec(MADE, module.__dict__)

    check_callback(lambda: module.Counts(), frameworks=[])
    module.wrong = 0
    with pytest.raises(ConformanceError, match=r"Counts.on_step_end .* raised ZeroDivisionError"):
        check_callback(module.Counts, frameworks=installed_frameworks()[:1])


@pytest.mark.slow
def test_the_adapters_pass():
    pytest.importorskip("keras")
    pytest.importorskip("lightning")
    import keras
    from lightning.pytorch.loggers import CSVLogger

    from trackside import KerasCallbackAdapter, LightningLoggerAdapter

    check_callback(lambda: LightningLoggerAdapter(CSVLogger("logs")), frameworks=installed_frameworks()[:1])
    check_callback(lambda: KerasCallbackAdapter(keras.callbacks.LambdaCallback()), frameworks=["tensorflow"])
