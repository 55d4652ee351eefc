from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("wandb")

from support.callback_examples import RaisesAt
from support.tracker_readers import WANDB_QUIET, curves_of, read_wandb

from trackside import TrainerCallback
from trackside.callbacks.errors import ArgumentError
from trackside.integrations._compat.wandb_datastore import read_history, read_records, wait_until_complete
from trackside.integrations.wandb import NOT_GLOBAL, WandbCallback


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


def wandb(**options):
    return WandbCallback(settings=WANDB_QUIET, **options)


def files(folder="out"):
    return sorted(Path(folder).glob("wandb/offline-run-*/run-*.wandb"))


def exit_code(path):
    return [record.exit.exit_code for record in read_records(path) if record.WhichOneof("record_type") == "exit"]


def config(path):
    values = {}
    for record in read_records(path):
        for source in (record.run.config.update, record.config.update):
            values.update({item.key: json.loads(item.value_json) for item in source if item.key})
    return values


def summary(path):
    values = {}
    for record in read_records(path):
        values.update({item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.summary.update})
    return values


def test_the_file_holds_the_arguments_and_the_end(make_trainer):
    trainer = make_trainer(wandb(project="tests"), learning_rate=0.02, metric_for_best_model="accuracy")

    trainer.train()

    (path,) = files()
    assert config(path)["learning_rate"] == 0.02
    assert summary(path)["best_metric"] == trainer.state.best_metric
    assert exit_code(path) == [0]


def test_python_and_numpy_random_numbers_are_left_alone(draws_nothing):
    assert draws_nothing(wandb())


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("boom"), 1), (KeyboardInterrupt(), 255)])
def test_a_run_that_raises_is_finished_as_failed_or_killed_with_all_its_records(make_trainer, error, code):
    trainer = make_trainer(wandb(), RaisesAt(5, error))

    with pytest.raises(type(error)):
        trainer.train()

    (path,) = files()
    assert read_wandb(path) == curves_of(trainer.state.log_history)
    assert exit_code(path) == [code]


def test_a_resumed_run_goes_on_with_the_same_id(make_trainer):
    with pytest.raises(RuntimeError):
        make_trainer(first := wandb(), RaisesAt(9)).train()
    make_trainer(tracker := wandb()).train(resume_from_checkpoint=True)

    assert tracker.run_id == first.run_id
    assert [path.name for path in files()] == [f"run-{tracker.run_id}.wandb"] * 2


def test_a_run_may_be_resumed_again_and_again_within_one_second(make_trainer):
    for last_step in (6, 9, 12):  # W&B names folders by the second, and those of the same one by a number too
        trainer = make_trainer(wandb(), max_steps=last_step, save_steps=3, save_strategy="steps")
        trainer.train(resume_from_checkpoint=last_step > 6)

    steps = {name: [step for step, _ in points] for name, points in read_wandb(*files()).items()}
    assert len(files()) == 3
    assert steps["train/loss"] == [2, 4, 6, 8, 10, 12]
    assert steps["eval/loss"] == [6, 9, 12]
    assert all(len(set(found)) == len(found) for found in steps.values())


def test_what_a_killed_run_lost_is_added_from_the_history(make_trainer):
    make_trainer(wandb(), max_steps=6).train()
    (path,) = files()
    path.write_bytes(path.read_bytes()[:7])
    second = make_trainer(wandb())
    second.train(resume_from_checkpoint=True)

    assert read_wandb(*files()) == curves_of(second.state.log_history)


def test_a_second_training_is_a_second_run_and_an_evaluation_goes_to_the_last_one(make_trainer):
    trainer = make_trainer(tracker := wandb(), num_train_epochs=1, overwrite_output_dir=True)
    trainer.train()
    first_id = tracker.run_id
    trainer.train()
    before = len(files())
    trainer.evaluate()

    assert first_id != tracker.run_id
    assert before == 2
    (added,) = [path for path in files() if len(list(read_history(path))) == 1]
    assert added.name == f"run-{tracker.run_id}.wandb"


def test_checkpoints_become_artifacts_on_request(make_trainer):
    trainer = make_trainer(wandb(checkpoints=True))
    trainer.train()
    quiet = make_trainer(wandb(), output_dir="other")

    (path,) = files()
    kept = [record.request.log_artifact for record in read_records(path) if record.HasField("request")]
    kept += [record.artifact for record in read_records(path) if record.WhichOneof("record_type") == "artifact"]
    aliases = [list(artifact.aliases) for artifact in kept if artifact.ByteSize()]
    assert [sorted(names) for names in aliases] == [["latest", "step-6"], ["latest", "step-12"]]
    assert not quiet._dispatcher.receivers("on_save")


@pytest.mark.parametrize("watch", ["gradients", "parameters", "all"])
def test_watch_logs_distributions_of_a_pytorch_model(tmp_path, watch):
    pytest.importorskip("torch")
    from trackside.testing.tiny_trainer import tiny_trainer

    trainer = tiny_trainer("pytorch", "out", [wandb(watch=watch)])
    trainer.train()

    names = {name for _, row in read_history(files()[0]) for name in row}
    kinds = {"gradients", "parameters"} if watch == "all" else {watch}
    assert {name.split("/")[0] for name in names} & {"gradients", "parameters"} == kinds


@pytest.mark.parametrize("watch", [None, "gradients", "all"])
def test_a_run_that_the_user_has_opened_stays_open_and_gets_nothing_of_the_training(tmp_path, watch):
    import wandb as tool

    from trackside.testing.tiny_trainer import tiny_trainer

    pytest.importorskip("torch")
    mine = tool.init(project="mine", dir=str(tmp_path), settings=tool.Settings(**WANDB_QUIET))
    tiny_trainer("pytorch", "out", [wandb(watch=watch)]).train()

    assert tool.run is mine
    tool.log({"my own number": 1})
    mine.finish()
    (own,) = Path("wandb").glob("offline-run-*/run-*.wandb")
    wait_until_complete(own)
    assert {name for _, row in read_history(own) for name in row if not name.startswith("_")} == {"my own number"}
    assert any(name.startswith("gradients/") for _, row in read_history(files()[0]) for name in row) == bool(watch)


NO_LOGIN = """
import os
from trackside import TrainerCallback, WandbCallback
from trackside.testing.tiny_trainer import tiny_trainer

trainer = tiny_trainer("pytorch", "out", [WandbCallback(settings={"silent": True})], max_steps=2)
print("MADE", flush=True)
trainer.train()
print("END OF SCRIPT", flush=True)
"""


def test_a_missing_login_is_told_when_the_trainer_is_made_and_nothing_is_asked(tmp_path):
    pytest.importorskip("torch")
    hidden = ("WANDB_API_KEY", "WANDB_MODE", "NETRC")
    env = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(tmp_path)}
    ours, theirs = os.openpty()  # W&B asks where there is a terminal
    try:
        done = subprocess.run(
            [sys.executable, "-c", NO_LOGIN], stdin=theirs, capture_output=True, text=True, env=env, timeout=120
        )
    finally:
        os.close(ours)
        os.close(theirs)

    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-3:] == ["MADE", "END OF SCRIPT", ""]
    assert done.stderr.count("failed in on_init_end; training goes on: LoginError(") == 1
    assert "Run `wandb login` or set WANDB_API_KEY, or record offline with mode='offline'" in done.stderr
    assert "Enter your choice" not in done.stdout + done.stderr


def test_wandb_log_in_a_callback_is_told_with_what_to_call_instead(make_trainer):
    import wandb as tool

    class Own(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            tool.log({"own": 1.0})

    with pytest.raises(tool.Error) as raised:
        make_trainer(wandb(), Own()).train()

    assert any("trainer.log({...})" in note for note in raised.value.__notes__)


def test_an_observer_that_calls_wandb_log_is_told_the_same(make_trainer, caplog):
    import wandb as tool

    class Own(TrainerCallback):
        role = "observer"

        def on_step_end(self, args, state, control, **kwargs):
            tool.log({"own": 1.0})

    make_trainer(wandb(), Own(), max_steps=4).train()

    assert [record.message for record in caplog.records if "trainer.log({...})" in record.message] == [
        f"the callback 'own': {NOT_GLOBAL}"
    ]


def test_each_rank_may_log_to_a_run_of_its_own_in_one_group(track):
    for rank in (0, 1):
        run = track(wandb(ranks="all"), run_name="big", process_index=rank)
        run.state.is_world_process_zero = rank == 0
        run.send("on_train_begin")
        run.step()
        run.log(loss=1.0)
        run.send("on_train_end")

    runs = [record.run for path in files() for record in read_records(path) if record.HasField("run")]
    assert {(run.display_name, run.run_group, run.job_type) for run in runs} == {
        ("big-rank-0", "big", "rank-0"),
        ("big-rank-1", "big", "rank-1"),
    }


def test_without_ranks_only_the_first_process_logs(track):
    run = track(wandb())
    run.state.is_world_process_zero = False
    run.send("on_train_begin")
    run.log(loss=1.0)
    run.send("on_train_end")

    assert files() == []


def test_options_are_checked():
    with pytest.raises(
        ArgumentError,
        match=r"mode='offlin' is not allowed: one of online, offline, disabled, None. Did you mean 'offline'",
    ):
        WandbCallback(mode="offlin")
