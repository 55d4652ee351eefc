"""A resumed run has the hyperparameters of its new arguments, and continues with values that these do not change."""

from __future__ import annotations

import numpy as np
import pytest

from trackside import TrainerCallback

SAVES = {"save_strategy": "steps", "save_steps": 4, "max_steps": 8, "logging_steps": 1, "learning_rate": 0.05}


class Rates(TrainerCallback):
    """The learning rate of each update, as the optimizer has it."""

    def __init__(self):
        self.used = {}

    def on_pre_optimizer_step(self, args, state, control, trainer, optimizer, **kwargs):
        groups = getattr(optimizer, "param_groups", None)
        rate = groups[0]["lr"] if groups else trainer.lr_scheduler.get_last_lr()[0]
        self.used[state.global_step + 1] = float(rate)


def rates_of(trainer_factory, resume=None, **options):
    rates = Rates()
    trainer = trainer_factory(callbacks=[rates], **{**SAVES, **options})
    trainer.train(resume_from_checkpoint=resume and str(trainer_factory.folder / "out" / resume))
    return rates.used, trainer


SCHEDULES = [
    {"lr_scheduler_type": "constant"},
    {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    {"lr_scheduler_type": "linear", "warmup_ratio": 0.75},
    {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 3},
    {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 3}},
    {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.01}},
    {"learning_rate": 0.001},
    {"max_steps": 12},
]


@pytest.mark.parametrize("change", SCHEDULES, ids=str)
def test_rates_after_a_resume_are_those_of_a_run_that_had_the_new_schedule_from_the_beginning(trainer_factory, change):
    rates_of(trainer_factory)

    resumed, _ = rates_of(trainer_factory, "checkpoint-4", **change)

    whole, _ = rates_of(trainer_factory, **change, output_dir=str(trainer_factory.folder / "whole"))
    assert resumed == {step: rate for step, rate in whole.items() if step > 4}


def test_a_finished_run_goes_on_with_the_rate_of_its_new_length(trainer_factory):
    rates_of(trainer_factory)

    resumed, _ = rates_of(trainer_factory, "checkpoint-8", max_steps=16)

    assert resumed[9] == pytest.approx(0.05 * 8 / 16)


def test_a_plateau_keeps_its_reduced_rate_unless_the_rate_itself_is_another(trainer_factory):
    plateau = {
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"factor": 0.5, "patience": 0, "threshold": 10.0, "threshold_mode": "abs"},
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_dataset": trainer_factory.dataset(8, seed=1),
    }
    whole, _ = rates_of(trainer_factory, **plateau)
    assert whole[8] == pytest.approx(0.0125)  # the second and the third evaluation reduced it

    kept, _ = rates_of(trainer_factory, "checkpoint-4", **plateau)
    slower = {**plateau, "lr_scheduler_kwargs": {**plateau["lr_scheduler_kwargs"], "factor": 0.1}}
    other_factor, _ = rates_of(trainer_factory, "checkpoint-4", **slower)
    other_rate, _ = rates_of(trainer_factory, "checkpoint-4", **plateau, learning_rate=0.02)

    assert kept == {step: rate for step, rate in whole.items() if step > 4}
    assert (other_factor[5], other_factor[7]) == pytest.approx((0.025, 0.0025))
    assert (other_rate[5], other_rate[7]) == pytest.approx((0.02, 0.01))


@pytest.mark.parametrize("change", [{"adam_beta1": 0.5}, {"adam_epsilon": 0.1}, {"weight_decay": 0.5}], ids=str)
def test_another_hyperparameter_has_its_effect_from_the_first_update_on(trainer_factory, change):
    _, before = rates_of(trainer_factory)

    _, resumed = rates_of(trainer_factory, "checkpoint-4", **change)

    assert not np.allclose(trainer_factory.weights(before), trainer_factory.weights(resumed), rtol=0, atol=1e-5)


def test_another_optimizer_begins_anew_and_one_warning_names_both(trainer_factory, caplog):
    rates_of(trainer_factory)
    caplog.clear()

    _, trainer = rates_of(trainer_factory, "checkpoint-4", optim="sgd", learning_rate=0.01)

    said = [record.getMessage() for record in caplog.records if "its state" in record.getMessage()]
    assert len(said) == 1
    assert "SGD" in said[0]
    assert "AdamW" in said[0]
    assert trainer.state.global_step == 8


def test_an_unchanged_resume_says_nothing(trainer_factory, caplog):
    rates_of(trainer_factory)
    caplog.clear()

    rates_of(trainer_factory, "checkpoint-4")

    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []
