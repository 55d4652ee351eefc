"""A hyperparameter search trains once for each proposal, each time as a trainer with these arguments would."""

from __future__ import annotations

import importlib.util
import os
import signal
from typing import Any

import numpy as np
import pytest

from trackside import EarlyStoppingCallback, TrainerCallback
from trackside.callbacks.builtin.journal import JournalCallback, read_journal
from trackside.callbacks.errors import (
    ArgumentError,
    MissingPackageError,
    TracksideTypeError,
    TracksideValueError,
    UnknownMetricError,
)
from trackside.trainer.checkpointing.choosing.choice import runs_begun
from trackside.trainer.outputs import BestRun

optuna = pytest.importorskip("optuna")


def eval_loss(metrics: dict[str, float]) -> float:
    return metrics["eval_loss"]


def rates(*values: float) -> dict[str, Any]:
    """The options of a search that tries these learning rates, in this order."""
    return {
        "hp_space": lambda trial: {"learning_rate": trial.suggest_categorical("learning_rate", list(values))},
        "n_trials": len(values),
        "sampler": optuna.samplers.GridSampler({"learning_rate": list(values)}, seed=0),
        "backend": "optuna",
    }


class Seen(TrainerCallback):
    """What a callback sees of each training."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []

    def on_train_end(self, args, state, control, **kwargs):
        names = ("is_hyper_param_search", "trial_name", "trial_params", "stop_reason")
        self.runs.append({"args": args, "steps": state.global_step, **{name: getattr(state, name) for name in names}})


@pytest.fixture
def searcher(trainer_factory):
    """Return a function that makes a trainer of 10 steps which makes its own models."""

    def make(**values: Any) -> Any:
        given = {"model_init": lambda: trainer_factory.model(), "eval_dataset": trainer_factory.dataset(24, seed=1)}
        return trainer_factory(**{**given, "max_steps": 10, **values})

    return make


def test_the_best_trial_is_what_training_with_its_hyperparameters_comes_to(searcher, trainer_factory):
    trainer = searcher()
    own = trainer.args

    best = trainer.hyperparameter_search(compute_objective=eval_loss, **rates(1e-5, 0.02, 1e-4))

    assert best.hyperparameters == {"learning_rate": 0.02}
    fresh = searcher(learning_rate=0.02)
    fresh.train()
    assert best.objective == fresh.evaluate()["eval_loss"]
    assert trainer.args is own
    trainer.train(trial=best)
    assert trainer.args.learning_rate == 0.02
    assert trainer.evaluate()["eval_loss"] == best.objective


def test_each_trial_has_a_folder_a_name_and_a_state_of_its_own(searcher, trainer_factory):
    seen = Seen()
    options = {"save_strategy": "steps", "save_steps": 5, "run_name": "digits", "logging_dir": "logs"}
    trainer = searcher(callbacks=[seen, JournalCallback()], **options)

    trainer.hyperparameter_search(compute_objective=eval_loss, **rates(0.01, 0.02))

    for number, run in enumerate(seen.runs):
        args, name = run["args"], f"run-{number}"
        assert (args.output_dir, args.run_name) == (f"{trainer.args.output_dir}/{name}", f"digits-{name}")
        assert args.logging_dir == os.path.abspath(f"logs/{name}")
        assert run["trial_params"] == {"learning_rate": args.learning_rate}
        assert (run["is_hyper_param_search"], run["trial_name"], run["steps"]) == (True, name, 10)
        assert trainer_factory.checkpoints(f"out/{name}") == ["checkpoint-10", "checkpoint-5"]
        first, *_ = read_journal(f"{args.output_dir}/journal.jsonl")
        assert (first["event"], first["args"]["learning_rate"]) == ("on_train_begin", args.learning_rate)
    assert {run["args"].learning_rate for run in seen.runs} == {0.01, 0.02}
    assert (trainer.state.is_hyper_param_search, trainer.state.trial_name) == (False, None)


def test_batch_size_epochs_seed_and_accumulation_can_be_searched(searcher):
    seen = Seen()
    trainer = searcher(callbacks=[seen], max_steps=-1)
    sizes = [4, 10, 20]

    def space(trial):
        size = trial.suggest_categorical("per_device_train_batch_size", sizes)
        return {"per_device_train_batch_size": size, "gradient_accumulation_steps": 20 // size, "num_train_epochs": 2}

    sampler = optuna.samplers.GridSampler({"per_device_train_batch_size": sizes})
    best = trainer.hyperparameter_search(space, eval_loss, n_trials=3, sampler=sampler)

    assert [run["steps"] for run in seen.runs] == [4, 4, 4]
    assert (
        best.hyperparameters["gradient_accumulation_steps"] == 20 // best.hyperparameters["per_device_train_batch_size"]
    )


def test_what_is_not_an_argument_is_left_to_a_model_init_that_takes_the_trial(searcher, trainer_factory):
    def model_init(trial: Any) -> Any:
        return trainer_factory.model(dropout=0.0 if trial is None else trial.params["dropout"])

    grid = {"dropout": [0.0, 0.9]}

    def space(trial):
        return {"dropout": trial.suggest_categorical("dropout", grid["dropout"]), "seed": np.int64(7), "kind": object}

    trainer = searcher(model_init=model_init, save_strategy="steps", save_steps=10)
    with pytest.warns(UserWarning, match="'dropout' is not a training argument; it is left to model_init"):
        best = trainer.hyperparameter_search(
            space, eval_loss, n_trials=2, sampler=optuna.samplers.GridSampler(grid), direction="maximize"
        )

    assert best.hyperparameters == {"dropout": 0.9, "seed": 7, "kind": object}
    trainer.train(trial=best)
    assert trainer.evaluate()["eval_loss"] == best.objective


def test_a_trial_without_prospects_is_given_up(searcher):
    seen = Seen()
    trainer = searcher(callbacks=[seen], eval_strategy="steps", eval_steps=2, logging_strategy="no")
    pruner = optuna.pruners.ThresholdPruner(upper=1.1, n_warmup_steps=4)

    best = trainer.hyperparameter_search(compute_objective=eval_loss, pruner=pruner, **rates(0.1, 1e-6))

    assert best.hyperparameters == {"learning_rate": 0.1}
    given_up = [run for run in seen.runs if run["args"].learning_rate == 1e-6]
    assert [(run["steps"], run["stop_reason"]) for run in given_up] == [(4, "the search gave this trial up")]


def test_a_signal_ends_the_search_with_the_best_so_far(searcher):
    class Kill(TrainerCallback):
        trainings = 0

        def on_train_begin(self, args, state, control, **kwargs):
            self.trainings += 1

        def on_step_end(self, args, state, control, **kwargs):
            if self.trainings == 2 and state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    kill = Kill()
    trainer = searcher(callbacks=[kill], on_stop_signal="return")

    best = trainer.hyperparameter_search(compute_objective=eval_loss, **rates(0.01, 0.02, 0.03, 0.04))

    assert kill.trainings == 2
    assert best.run_id == "0"


def test_the_objective_is_that_of_the_last_evaluation_and_none_is_done_twice(searcher):
    scores = iter([0.9, 0.2, 0.8, 0.4])
    trainer = searcher(
        compute_metrics=lambda prediction: {"score": next(scores)}, max_steps=4, eval_strategy="steps", eval_steps=2
    )

    best = trainer.hyperparameter_search(lambda trial: {}, n_trials=2, direction="maximize")

    assert best == BestRun("1", 0.4, {})


def test_with_the_best_model_loaded_the_objective_is_its_own(searcher):
    options = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    trainer = searcher(load_best_model_at_end=True, lr_scheduler_type="constant", max_steps=12, **options)

    best = trainer.hyperparameter_search(compute_objective=eval_loss, **rates(2.0))

    losses = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    assert best.objective == min(losses) < losses[-2]


def test_early_stopping_begins_anew_with_each_trial(searcher):
    seen = Seen()
    trainer = searcher(
        callbacks=[EarlyStoppingCallback(1, 10.0), seen], eval_strategy="steps", eval_steps=2, logging_strategy="no"
    )

    trainer.hyperparameter_search(compute_objective=eval_loss, **rates(0.01, 0.02))

    assert [run["steps"] for run in seen.runs] == [4, 4]


def test_a_study_in_a_file_goes_on_where_it_was(searcher, trainer_factory):
    options = {
        "storage": f"sqlite:///{trainer_factory.folder}/study.db",
        "study_name": "digits",
        "load_if_exists": True,
    }
    space = {"hp_space": lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)}}
    searcher().hyperparameter_search(compute_objective=eval_loss, n_trials=1, **space, **options)

    searcher().hyperparameter_search(compute_objective=eval_loss, n_trials=2, **space, **options)

    study = optuna.load_study(study_name="digits", storage=options["storage"])
    assert [trial.number for trial in study.trials] == [0, 1, 2]


def test_the_default_space_is_what_the_reference_has(searcher):
    seen = Seen()
    trainer = searcher(callbacks=[seen])

    best = trainer.hyperparameter_search(n_trials=1)

    names = {"learning_rate", "num_train_epochs", "seed", "per_device_train_batch_size"}
    assert set(best.hyperparameters) == names
    assert isinstance(best, BestRun)
    assert {name: getattr(seen.runs[0]["args"], name) for name in names} == best.hyperparameters


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"direction": "minimise"}, ArgumentError, "one of minimize, maximize. Did you mean 'minimize'?"),
        ({"backend": "optima"}, ArgumentError, "one of optuna, ray. Did you mean 'optuna'?"),
        ({"n_trials": 0}, ArgumentError, "n_trials=0 is not allowed: a whole number from 1"),
        ({"sampler_": 1}, TracksideTypeError, "no argument 'sampler_', nor has optuna. Did you mean 'sampler'?"),
        ({"n_jobs": 2}, ArgumentError, "a trainer trains one model at a time"),
        ({"hp_space": lambda trial: [1]}, TracksideTypeError, r"hp_space must return a dict .* returned \[1\]"),
        ({"hp_space": lambda trial: {"learning_rat": 1}}, ArgumentError, "Did you mean 'learning_rate'?"),
        ({"hp_space": lambda trial: {"learning_rate": -1.0}}, ArgumentError, "learning_rate=-1.0 is not allowed"),
        ({"hp_space": lambda trial: {"output_dir": "x"}}, ArgumentError, "settled for the whole search"),
        (
            {"hp_space": lambda trial: {"cores": 8}},
            ArgumentError,
            "no training argument, nor does model_init take a trial",
        ),
        ({"hp_name": lambda trial: trial.number}, TracksideTypeError, "hp_name must return the name of a run"),
        ({"compute_objective": lambda metrics: metrics["eval_los"]}, UnknownMetricError, "Did you mean 'eval_loss'?"),
        ({"compute_objective": lambda metrics: None}, TracksideTypeError, "must return a number; it returned None"),
        ({"compute_objective": lambda metrics: float("nan")}, TracksideValueError, "none of 1 trials of the search"),
    ],
)
def test_what_cannot_be_done_is_said(searcher, options, error, message):
    trainer = searcher(max_steps=1)
    own = trainer.args

    with pytest.raises(error, match=message):
        trainer.hyperparameter_search(**{"hp_space": lambda trial: {}, "n_trials": 1, **options})

    assert (trainer.args, trainer._search) == (own, None)


def test_a_search_needs_a_way_to_make_models_and_to_evaluate(searcher, trainer_factory):
    with pytest.raises(ArgumentError, match="model_init=None is not allowed"):
        trainer_factory().hyperparameter_search()
    with pytest.raises(ArgumentError, match="hyperparameter_search needs an evaluation dataset"):
        searcher(eval_dataset=None).hyperparameter_search()


def test_a_backend_that_is_not_installed_is_named_with_the_command(searcher, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingPackageError, match=r"pip install 'trackside\[optuna\]'"):
        searcher().hyperparameter_search()


def test_training_again_with_what_was_found_goes_into_the_same_folder(searcher, trainer_factory):
    trainer = searcher(save_strategy="steps", save_steps=10)
    trainer.train()
    best = trainer.hyperparameter_search(compute_objective=eval_loss, **rates(0.01))

    trainer.train(trial=best)

    assert trainer_factory.checkpoints() == ["checkpoint-10"]


def test_a_trial_takes_no_checkpoint_of_an_earlier_attempt_for_its_own(searcher, trainer_factory):
    class Notes(dict):
        """What outlives an attempt of a job under torchrun."""

        def set(self, name, text):
            self[name] = text.encode()

        def check(self, names):
            return all(name in self for name in names)

    notes = Notes()
    options = {"save_strategy": "steps", "save_steps": 10}
    for rate in (0.01, 0.02):
        runs_begun.clear()  # as in a new process
        trainer = searcher(overwrite_output_dir=True, **options)
        trainer._engine.job_store = lambda: notes
        best = trainer.hyperparameter_search(compute_objective=eval_loss, **rates(rate))

    fresh = searcher(learning_rate=0.02)
    fresh.train()
    assert best.objective == fresh.evaluate()["eval_loss"]
    with pytest.raises(ArgumentError, match="holds checkpoints of another run"):
        searcher(**options).hyperparameter_search(compute_objective=eval_loss, **rates(0.03))


def test_train_takes_a_dict_of_hyperparameters_and_nothing_else(searcher):
    trainer = searcher()

    trainer.train(trial={"max_steps": 3})

    assert trainer.state.global_step == 3
    with pytest.raises(TracksideTypeError, match="trial must be a dict of hyperparameters"):
        trainer.train(trial=3)
