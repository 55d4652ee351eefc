from __future__ import annotations

import csv

import pytest

pytest.importorskip("codecarbon")

from trackside.integrations.codecarbon import CodeCarbonCallback


@pytest.mark.slow
def test_energy_and_emissions_of_every_training_are_written(make_trainer):
    trainer = make_trainer(tracker := CodeCarbonCallback("FRA", measure_power_secs=1.0))
    trainer.train()

    with open("out/emissions.csv") as file:
        (row,) = csv.DictReader(file)
    assert trainer.callback_report["codecarbon"].failures == 0
    assert row["country_iso_code"] == "FRA"
    assert float(row["emissions"]) == tracker.emissions_kg


@pytest.mark.slow
def test_an_evaluation_is_a_row_of_its_own_and_leaves_the_emissions_of_the_training(make_trainer):
    trainer = make_trainer(tracker := CodeCarbonCallback("FRA", measure_power_secs=1.0))
    trainer.train()
    of_training = tracker.emissions_kg
    trainer.evaluate()

    with open("out/emissions.csv") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert tracker.emissions_kg == of_training
