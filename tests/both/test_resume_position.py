"""A resumed run goes on until the examples that it owes are seen, however its arguments divide them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from trackside import EarlyStoppingCallback, TrainerCallback

RUN = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2, "per_device_train_batch_size": 4}
WHOLE = 16
"""Updates of that run on 32 examples."""


def resume(trainer_factory, step, data=32, **options):
    """Resume from the checkpoint of ``step``; return the trainer, the examples seen, and the epochs after updates."""
    given = {**RUN, "save_strategy": "no", **options}
    trainer = trainer_factory(train_dataset=trainer_factory.dataset(data), **given)
    counted, epochs = [], []
    engine = trainer._engine
    count = engine.count_examples
    engine.count_examples = lambda window: counted.append(count(window)) or counted[-1]
    trainer.on("on_step_end")(lambda sender, state, **kwargs: epochs.append(state.epoch))
    trainer.train(trainer_factory.folder / "out" / f"checkpoint-{step}")
    return trainer, sum(counted), epochs


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def whole_run(kept, trainer_factory):
    """The folder of that run, trained once for each framework."""
    run, folder = kept / trainer_factory.framework, trainer_factory.folder / "out"
    if not run.exists():
        trainer_factory(train_dataset=trainer_factory.dataset(32), **RUN).train()
        shutil.copytree(folder, run)
    elif not folder.exists():
        shutil.copytree(run, folder)
    return folder


@pytest.fixture(params=[3, 8])
def stopped_at(request, whole_run):
    return request.param


CHANGES = [
    {"per_device_train_batch_size": 16},
    {"per_device_train_batch_size": 8},
    {"per_device_train_batch_size": 2},
    {"gradient_accumulation_steps": 4},
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    {"num_train_epochs": 3},
    {"num_train_epochs": 1.5},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_examples_that_the_epochs_owe_are_seen(trainer_factory, stopped_at, change):
    trainer, seen, epochs = resume(trainer_factory, stopped_at, **change)

    owed = int(32 * change.get("num_train_epochs", 2)) - 4 * stopped_at
    assert seen == owed
    assert trainer.state.epoch == change.get("num_train_epochs", 2)
    assert trainer.state.global_step == trainer.state.max_steps
    assert epochs == sorted(epochs)
    assert epochs[0] > stopped_at / 8


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_with_nothing_left_trains_no_step_and_says_so(trainer_factory, whole_run, caplog, epochs):
    trainer, seen, _ = resume(trainer_factory, WHOLE, num_train_epochs=epochs)

    assert (seen, trainer.state.global_step) == (0, WHOLE)
    assert "nothing is left to train" in caplog.text


def test_max_steps_holds_with_any_batch_size(trainer_factory, stopped_at):
    trainer, _, _ = resume(trainer_factory, stopped_at, max_steps=10, per_device_train_batch_size=8)

    assert trainer.state.global_step == trainer.state.max_steps == 10


def test_a_second_resume_of_a_resized_run_is_the_resized_run(trainer_factory, stopped_at):
    change = {"per_device_train_batch_size": 8, "save_strategy": "steps"}
    whole, _, _ = resume(trainer_factory, stopped_at, **change)

    again, seen, _ = resume(trainer_factory, stopped_at + 1, **change)

    assert seen == 64 - 4 * stopped_at - 8
    assert again.state.max_steps == whole.state.max_steps
    np.testing.assert_array_equal(trainer_factory.weights(whole), trainer_factory.weights(again))


def test_the_schedule_ends_with_the_run(trainer_factory, stopped_at):
    trainer, _, _ = resume(trainer_factory, stopped_at, per_device_train_batch_size=8, learning_rate=0.1)

    assert trainer.lr_scheduler.get_last_lr()[0] == 0


@pytest.mark.parametrize(("examples", "left"), [(48, 48 + 36), (8, 8)])
def test_another_dataset_is_told_and_counted_by_its_own_length(trainer_factory, whole_run, caplog, examples, left):
    heard = []

    trainer, seen, _ = resume(trainer_factory, 3, data=examples)

    trainer.on("on_load")(lambda sender, differences, **rest: heard.append(differences))
    trainer.train(trainer_factory.folder / "out" / "checkpoint-3")
    assert seen == left
    assert trainer.state.epoch == 2.0
    assert "train_dataset" in caplog.text
    old, new = heard[0]["train_dataset"]
    assert (old["examples"], new["examples"]) == (32, examples)


def test_an_early_stopped_run_trains_no_step_more_unless_its_patience_is_larger(trainer_factory):
    options = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_dataset": trainer_factory.dataset(8, seed=1),
        "metric_for_best_model": "loss",
        "learning_rate": 0.0,
    }
    first = trainer_factory(
        train_dataset=trainer_factory.dataset(32), callbacks=[EarlyStoppingCallback(2)], **RUN, **options
    )
    first.train()
    step = first.state.global_step
    assert step == 3

    stays, seen, _ = resume(trainer_factory, step, callbacks=[EarlyStoppingCallback(2)], **options)
    goes_on, _, _ = resume(trainer_factory, step, callbacks=[EarlyStoppingCallback(4)], **options)

    assert (seen, stays.state.global_step) == (0, step)
    assert "early stopping" in stays.state.stop_reason
    assert goes_on.state.global_step == step + 2


def test_another_seed_orders_the_data_from_the_next_epoch_on(trainer_factory):
    """The rest of the epoch in progress keeps its order, so that each example is seen once."""
    numbers = np.arange(32, dtype=np.float32)
    data = trainer_factory.from_arrays(np.repeat(numbers[:, None], 6, 1), np.zeros(32, dtype=np.int64))

    def order(step=None, **options):
        seen = []
        trainer = trainer_factory(train_dataset=data, **{**RUN, "learning_rate": 1e-9, **options})
        engine = trainer._engine
        plain = engine.count_examples
        engine.count_examples = lambda window: seen.extend(map(first_features, window)) or plain(window)
        trainer.train(step and trainer_factory.folder / "out" / f"checkpoint-{step}")
        return np.concatenate(seen).tolist()

    def first_features(batch):
        return np.asarray(batch.inputs[0])[:, 0]

    whole = order()
    resumed = order(3, seed=7)
    fresh = order(seed=7, output_dir=str(trainer_factory.folder / "fresh"))

    assert resumed == whole[12:32] + fresh[32:]


class EndsTheEpoch(TrainerCallback):
    """Ends the first epoch after two updates."""

    role = "control"

    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = state.global_step == 2


def test_a_run_that_ended_with_an_epoch_cut_short_trains_nothing_more_when_it_is_resumed(trainer_factory, caplog):
    def trainer():
        options = {"num_train_epochs": 2, "save_strategy": "epoch"}
        return trainer_factory(train_dataset=trainer_factory.dataset(32), callbacks=[EndsTheEpoch()], **options)

    assert trainer().train().global_step == 6
    assert trainer().train(resume_from_checkpoint=True).global_step == 6
    assert "nothing is left to train: the checkpoint has done 6 updates" in caplog.text
