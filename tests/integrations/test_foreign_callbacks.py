"""Callbacks and loggers written for other trainers, attached as they are and read back with their tools' readers.

`docs/reference/foreign-callbacks.md` lists them; Keras's own are run in test_keras_adapter.py, Lightning's own in
test_lightning_adapter.py.
"""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import transformers.trainer_callback as shipped
from support.tracker_readers import as_float32, curves_of, read_comet, read_tensorboard, read_wandb
from transformers.integrations import integration_utils as trackers

from trackside import KerasCallbackAdapter, LightningLoggerAdapter
from trackside.integrations._compat.wandb_datastore import wait_until_complete


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "COMET_START_ONLINE": "0",
        "COMET_MODE": "CREATE",
        "COMET_OFFLINE_DIRECTORY": str(tmp_path / "comet"),
        "COMET_LOGGING_CONSOLE": "ERROR",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "TENSORBOARD_LOGGING_DIR": str(tmp_path / "tensorboard"),
        "DVC_NO_ANALYTICS": "1",
    }.items():
        monkeypatch.setenv(name, value)


def records_with(trainer, name):
    """Return what was logged under a name, by step."""
    return [(record["step"], record[name]) for record in trainer.state.log_history if name in record]


def trained(make_trainer, callback, **args):
    """Train with a callback that must not fail."""
    trainer = make_trainer(callback, **args)
    trainer.train()
    report = [item for item in trainer.callback_report.values() if item.callback is callback]
    assert [item.failures for item in report] == [0], report[0].last_error
    return trainer


# -- trackers that transformers ships -----------------------------------------------------------------------------


def test_tensorboard(make_trainer):
    pytest.importorskip("tensorboardX")

    trainer = trained(make_trainer, trackers.TensorBoardCallback())

    shown, expected = read_tensorboard("tensorboard"), as_float32(curves_of(trainer.state.log_history))
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss", "eval/accuracy"):
        assert shown[name] == expected[name]


def test_wandb(make_trainer):
    wandb = pytest.importorskip("wandb")
    if wandb.run is not None:
        wandb.finish()

    trainer = trained(make_trainer, trackers.WandbCallback())
    path = Path(wandb.run.settings.sync_file)
    wandb.finish()  # the callback leaves its run open
    wait_until_complete(path)

    shown, expected = read_wandb(path), curves_of(trainer.state.log_history)
    steps = [step for _, step in shown["train/global_step"]]  # its points are numbered one by one
    losses = dict(shown["train/loss"])
    assert [(int(steps[number]), loss) for number, loss in losses.items()] == expected["train/loss"]
    assert [value for _, value in shown["eval/accuracy"]] == [value for _, value in expected["eval/accuracy"]]


def test_mlflow(make_trainer):
    mlflow = pytest.importorskip("mlflow")

    trainer = trained(make_trainer, trackers.MLflowCallback())

    client = mlflow.MlflowClient()
    run = mlflow.last_active_run()  # of this thread: that of another test may still open one
    for name in ("loss", "eval_accuracy"):
        shown = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        assert shown == records_with(trainer, name)


def test_comet(make_trainer):
    comet_ml = pytest.importorskip("comet_ml")

    trainer = trained(make_trainer, trackers.CometCallback())
    comet_ml.end()

    (path,) = Path("comet").glob("*.zip")
    shown, expected = read_comet(path), curves_of(trainer.state.log_history)
    for name in ("train/loss", "eval/accuracy"):
        assert shown[name] == expected[name]


@pytest.mark.parametrize("background", [False, True])
def test_trackio(make_trainer, request, background):
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    request.getfixturevalue("trackio_folder")
    trainer = make_trainer(run_name="theirs")
    report = trainer.add_callback(trackers.TrackioCallback(), background=background)
    trainer.train()

    rows = SQLiteStorage.get_logs("huggingface", "theirs")
    shown = [(row["train/global_step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert shown == records_with(trainer, "loss")
    assert report.failures == 0


def test_codecarbon(make_trainer, monkeypatch):
    codecarbon = pytest.importorskip("codecarbon")
    Path("out").mkdir()
    offline = partial(codecarbon.OfflineEmissionsTracker, country_iso_code="FRA", allow_multiple_runs=True)
    monkeypatch.setattr(codecarbon, "EmissionsTracker", offline)  # the other one asks a service where it is

    trained(make_trainer, trackers.CodeCarbonCallback())

    assert "FRA" in Path("out/emissions.csv").read_text()


@pytest.mark.parametrize("home", ["transformers.integrations", "dvclive.huggingface"])
def test_dvclive(make_trainer, home):
    dvclive = pytest.importorskip("dvclive")
    callback = pytest.importorskip(home).DVCLiveCallback(live=dvclive.Live(save_dvc_exp=False, dvcyaml=None))

    trainer = trained(make_trainer, callback)

    records = enumerate(trainer.state.log_history)  # its steps count records
    assert dvclive_curve("loss") == [(number, record["loss"]) for number, record in records if "loss" in record]


def test_trackers_of_transformers_are_observers(make_trainer):
    pytest.importorskip("wandb")

    trainer = make_trainer(trackers.WandbCallback(), shipped.EarlyStoppingCallback())

    assert trainer.callback_report["wandb"].role == "observer"
    assert trainer.callback_report["early_stopping"].role == "control"


# -- its other callbacks ------------------------------------------------------------------------------------------


def test_early_stopping(make_trainer):
    callback = shipped.EarlyStoppingCallback(early_stopping_patience=1)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trainer = trained(make_trainer, callback, num_train_epochs=8, learning_rate=0.0, **best)

    assert 12 <= trainer.state.global_step < 48
    assert "early_stopping" in trainer.state.stop_reason
    kept = json.loads(next(iter(Path("out").glob("checkpoint-*/trainer_state.json"))).read_text())
    assert "early_stopping" in kept["stateful_callbacks"]


def test_printer(make_trainer, capsys):
    trainer = trained(make_trainer, shipped.PrinterCallback())

    printed = capsys.readouterr().out
    assert printed.count("'grad_norm'") == len(records_with(trainer, "loss"))


def test_progress(make_trainer, capfd):
    trained(make_trainer, shipped.ProgressCallback())

    assert "12/12" in capfd.readouterr().err


def test_default_flow(make_trainer):
    trainer = trained(make_trainer, shipped.DefaultFlowCallback())

    assert len(records_with(trainer, "loss")) == 6


def test_every_field_of_their_arguments_can_be_read(make_trainer):
    from dataclasses import fields

    from transformers import TrainingArguments

    args = make_trainer().args

    assert [item.name for item in fields(TrainingArguments) if not hasattr(args, item.name)] == []


# -- through the adapters -----------------------------------------------------------------------------------------


def test_dvclive_for_keras(make_trainer):
    dvclive = pytest.importorskip("dvclive")
    callback = pytest.importorskip("dvclive.keras").DVCLiveCallback(live=dvclive.Live(save_dvc_exp=False, dvcyaml=None))

    trainer = trained(make_trainer, KerasCallbackAdapter(callback))

    accuracies = [value for _, value in records_with(trainer, "eval_accuracy")]
    assert dvclive_curve("eval/accuracy") == list(enumerate(accuracies))


def test_tqdm_for_keras(make_trainer, capfd):
    callback = pytest.importorskip("tqdm.keras").TqdmCallback(verbose=1)

    trainer = trained(make_trainer, KerasCallbackAdapter(callback))

    shown = capfd.readouterr().err
    assert "2/2" in shown
    assert f"val_accuracy={records_with(trainer, 'eval_accuracy')[-1][1]:.3g}" in shown


def test_dvclive_for_lightning(make_trainer):
    pytest.importorskip("lightning")
    logger = pytest.importorskip("dvclive.lightning").DVCLiveLogger(save_dvc_exp=False, dvcyaml=None)

    trainer = trained(make_trainer, LightningLoggerAdapter(logger))

    assert dvclive_curve("train/loss") == records_with(trainer, "loss")


def dvclive_curve(name):
    """Return steps and values in the file that DVCLive keeps for a metric."""
    with Path(f"dvclive/plots/metrics/{name}.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [(int(row["step"]), float(row[name.rpartition("/")[2]])) for row in rows]
