"""Both trainers leave the same records: the same names, at the same steps, meaning the same."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from trackside import TrainerCallback

TRAINING = ["loss", "grad_norm", "learning_rate", "epoch", "step"]
EVALUATION = {"eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "epoch", "step"}
LAST = {
    *("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"),
    *("epoch", "step"),
}


def test_records_have_the_agreed_names(trainer_factory):
    trainer = trainer_factory(logging_steps=5, eval_strategy="epoch", eval_dataset=trainer_factory.dataset(9))

    output = trainer.train()

    training, evaluation, *_, last = trainer.state.log_history
    assert list(training) == TRAINING
    assert set(evaluation) == EVALUATION
    assert set(last) == LAST
    assert output.metrics == {name: value for name, value in last.items() if name != "step"}


def test_records_of_both_trainers_have_the_same_names_and_steps(both_factories, accuracy):
    histories = []
    for factory in both_factories:
        trainer = factory(
            num_train_epochs=2,
            logging_steps=2,
            eval_strategy="epoch",
            eval_dataset=factory.dataset(9),
            compute_metrics=accuracy,
        )
        trainer.train()
        histories.append([(sorted(record), record["step"], record["epoch"]) for record in trainer.state.log_history])

    assert histories[0] == histories[1]


def test_the_loss_of_a_record_is_the_mean_since_the_last_one(trainer_factory):
    every, third = trainer_factory(logging_steps=1), trainer_factory(logging_steps=3)

    total = every.train().training_loss
    third.train()

    losses = [record["loss"] for record in every.state.log_history if "loss" in record]
    means = [record["loss"] for record in third.state.log_history if "loss" in record]
    assert means == pytest.approx([np.mean(losses[start : start + 3]) for start in range(0, 15, 3)])
    assert total == every.state.log_history[-1]["train_loss"] == pytest.approx(np.mean(losses))


@pytest.mark.parametrize("keeps", [False, True])
def test_a_loss_that_is_not_finite_is_shown_as_it_is_unless_filtered(trainer_factory, keeps):
    trainer = trainer_factory(
        trainer_factory.disturbed(2, float("nan")), max_steps=3, logging_steps=1, logging_nan_inf_filter=keeps
    )

    trainer.train()

    assert np.isfinite([record["loss"] for record in trainer.state.log_history[:3]]).tolist() == [True, True, keeps]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"logging_steps": 4}, [4, 8]),
        ({"logging_steps": 4, "logging_first_step": True}, [1, 4, 8]),
        ({"logging_steps": 0.5}, [5, 10]),
        ({"logging_strategy": "epoch"}, [5, 10]),
        ({"logging_strategy": "no"}, []),
    ],
)
def test_records_come_when_the_arguments_say(trainer_factory, options, steps):
    trainer = trainer_factory(max_steps=10, **options)

    trainer.train()

    assert [record["step"] for record in trainer.state.log_history if "loss" in record] == steps


def test_what_a_callback_does_to_its_logs_does_not_reach_the_others(trainer_factory):
    class Spoils(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            logs.clear()

    trainer = trainer_factory(callbacks=[Spoils()], logging_steps=1, max_steps=1)
    heard = []
    trainer.on("on_log")(lambda sender, logs, **kwargs: heard.append(set(logs)))

    trainer.train()

    assert heard[0] == set(TRAINING) - {"step"}
    assert set(trainer.state.log_history[0]) == set(TRAINING)


def test_memory_metrics_are_given_on_request(trainer_factory):
    pytest.importorskip("psutil")
    trainer = trainer_factory(skip_memory_metrics=False, max_steps=1, eval_dataset=trainer_factory.dataset(9))

    first, second = trainer.train().metrics, trainer.evaluate()

    of_init = {"init_mem_cpu_alloc_delta", "init_mem_cpu_peaked_delta", "before_init_mem_cpu"}
    assert {"train_mem_cpu_alloc_delta", "train_mem_cpu_peaked_delta"} | of_init <= first.keys()
    assert "eval_mem_cpu_alloc_delta" in second
    assert not of_init & second.keys()


def test_floating_point_ops_are_counted_without_a_checkpoint(trainer_factory):
    class Counting(trainer_factory.trainer_class):
        def floating_point_ops(self, inputs):
            return 10

    assert trainer_factory(Counting, max_steps=3).train().metrics["total_flos"] == 30


def test_metrics_and_state_of_a_trainer_that_has_not_trained_make_the_folder(trainer_factory):
    trainer = trainer_factory()

    trainer.save_metrics("eval", {"eval_loss": 0.5})
    trainer.save_state()

    written = {path.name for path in (trainer_factory.folder / "out").iterdir()}
    assert written == {"all_results.json", "eval_results.json", "trainer_state.json"}


def test_a_run_shorter_than_logging_steps_logs_its_losses_at_its_end(trainer_factory):
    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    every, short = trainer_factory(logging_steps=1), trainer_factory(logging_steps=500)
    stopped = trainer_factory(callbacks=[Stops()])
    for trainer in (every, short, stopped):
        trainer.train()

    losses = [record["loss"] for record in every.state.log_history if "loss" in record]
    for trainer, steps in ((short, len(losses)), (stopped, 3)):
        record, last = trainer.state.log_history
        assert (list(record), record["step"]) == (TRAINING, steps)
        assert record["loss"] == pytest.approx(np.mean(losses[:steps])) == last["train_loss"]


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({"logging_strategy": "no"}, []),
        ({"logging_steps": 4}, [4, 8, 12]),  # of 15 updates
        ({"logging_steps": 500, "logging_first_step": True}, [1]),
    ],
)
def test_a_run_that_has_a_record_or_wants_none_does_not_log_at_its_end(trainer_factory, values, steps):
    trainer = trainer_factory(**values)
    trainer.train()

    assert [record["step"] for record in trainer.state.log_history if "loss" in record] == steps


def test_a_short_run_that_is_stopped_and_resumed_has_the_record_of_one_that_is_not(trainer_factory):
    class Preempted(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    values = {"save_strategy": "steps", "logging_steps": 500, "on_stop_signal": "return"}
    whole = trainer_factory(**values)
    whole.train()
    values["output_dir"] = str(trainer_factory.folder / "stopped")
    stopped, resumed, at_end = (trainer_factory(**values) for _ in range(3))
    stopped.add_callback(Preempted)
    for trainer in (stopped, resumed, at_end):
        trainer.train(resume_from_checkpoint=trainer is not stopped)

    assert [record for record in stopped.state.log_history if "loss" in record] == []
    for trainer in (resumed, at_end):
        assert trainer.state.log_history[0] == whole.state.log_history[0]
        assert sum("loss" in record for record in trainer.state.log_history) == 1
