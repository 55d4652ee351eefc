from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("lightning")

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from support.callback_examples import RaisesAt
from support.tracker_readers import as_float32, curves_of, read_tensorboard

from trackside.callbacks.errors import TracksideTypeError
from trackside.integrations.lightning_adapter import LightningLoggerAdapter


def rows_in(path):
    curves = {}
    with Path(path).open() as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value:
                    curves.setdefault(name, []).append((step, float(value)))
    return curves


def test_a_csv_logger_holds_the_history_and_the_arguments(make_trainer):
    trainer = make_trainer(LightningLoggerAdapter(CSVLogger("logs")))
    trainer.train()

    assert rows_in("logs/lightning_logs/version_0/metrics.csv") == curves_of(trainer.state.log_history)
    assert "learning_rate: 0.01" in Path("logs/lightning_logs/version_0/hparams.yaml").read_text()
    assert trainer.callback_report["lightning_logger"].failures == 0


def test_a_tensorboard_logger_holds_the_history(make_trainer):
    pytest.importorskip("tensorboard")

    trainer = make_trainer(LightningLoggerAdapter(TensorBoardLogger("logs")))
    trainer.train()

    shown = read_tensorboard("logs/lightning_logs/version_0")
    expected = as_float32(curves_of(trainer.state.log_history))
    assert {name: points for name, points in shown.items() if name in expected} == expected


def test_a_resumed_run_begins_with_the_whole_history(make_trainer):
    with pytest.raises(RuntimeError):
        make_trainer(LightningLoggerAdapter(CSVLogger("logs")), RaisesAt(9)).train()
    second = make_trainer(LightningLoggerAdapter(CSVLogger("logs")))
    second.train(resume_from_checkpoint=True)

    rows = rows_in("logs/lightning_logs/version_0/metrics.csv")
    assert [step for step, _ in rows["train/loss"]] == [2, 4, 6, 8]
    assert rows_in("logs/lightning_logs/version_1/metrics.csv") == curves_of(second.state.log_history)


def test_something_that_is_not_a_logger_is_an_error():
    with pytest.raises(TracksideTypeError, match="str is not a Lightning logger: it has no method log_hyperparams, "):
        LightningLoggerAdapter("logs")
