"""fast_dev_run: everything that a run does, once each, without a trace, on both trainers."""

from __future__ import annotations

import gc
import logging
from pathlib import Path

import pytest

from trackside import JournalCallback, TensorBoardCallback, TrainerCallback
from trackside.callbacks.builtin.csv_logger import CSVLoggerCallback
from trackside.callbacks.errors import ArgumentError

HEARD = ("on_step_end", "on_prediction_step", "on_evaluate", "on_save", "on_load", "on_predict")


class Count(TrainerCallback):
    def __init__(self):
        self.events = []
        for event in HEARD:
            setattr(self, event, lambda *args, event=event, **kwargs: self.events.append(event))


def test_a_development_run_does_everything_once_and_leaves_nothing(trainer_factory, capsys, caplog, accuracy):
    pytest.importorskip("tensorboard")
    count, journal, own = Count(), JournalCallback(), CSVLoggerCallback("elsewhere.csv")
    with caplog.at_level(logging.WARNING):
        trainer = trainer_factory(
            fast_dev_run=True,
            eval_strategy="epoch",
            eval_dataset=trainer_factory.dataset(40),
            compute_metrics=accuracy,
            callbacks=[count, journal, own, TensorBoardCallback()],
            load_best_model_at_end=True,
            save_strategy="epoch",
            num_train_epochs=50,
        )
        output = trainer.train()

    folder = Path(trainer.args.output_dir)
    assert output.global_step == 2
    assert trainer.state.max_steps == 250  # the schedule is that of the whole run
    expected = ["on_step_end", "on_prediction_step", "on_evaluate", "on_save"]
    heard = [event for number, event in enumerate(count.events) if count.events[number - 1 : number] != [event]]
    assert heard == [*expected, "on_load", *expected, "on_prediction_step", "on_predict"]
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert "csv, tensorboard stays out" in caplog.text
    said = capsys.readouterr().out
    assert "fast_dev_run: train, evaluate, save, resume, predict work, one batch each, in " in said
    assert f"nothing in {trainer_factory.folder / 'out'}" in said
    assert "MiB of this process" in said
    assert list(trainer_factory.folder.iterdir()) == []

    trainer.save_model()  # what a script does after training goes to the same folder
    assert (folder / trainer_factory.saved_file).exists()
    del trainer, count
    gc.collect()
    assert not folder.exists()


def test_a_development_run_without_evaluation_data_predicts_on_training_data(trainer_factory, capsys):
    trainer = trainer_factory(fast_dev_run=True, save_only_model=True)

    trainer.train()

    assert "fast_dev_run: train, save, resume, predict work" in capsys.readouterr().out
    assert not (trainer_factory.folder / "out").exists()


def test_the_arguments_say_what_was_given_when_they_are_replaced(trainer_factory):
    args = trainer_factory(fast_dev_run=True, save_steps=7, report_to=["tensorboard"]).args

    again = args.replace(fast_dev_run=False)

    assert args.output_dir == args.replace().output_dir != again.output_dir
    assert (again.save_steps, again.save_strategy, again.report_to) == (7, "no", ["tensorboard"])


def test_a_development_run_is_on_or_off(trainer_factory):
    with pytest.raises(ArgumentError, match="fast_dev_run='often' is not allowed"):
        trainer_factory(fast_dev_run="often")
