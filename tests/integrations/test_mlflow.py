from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlflow")

from support.callback_examples import RaisesAt
from support.tracker_readers import curves_of, read_mlflow

from trackside import TrainerCallback
from trackside.integrations.mlflow import MAX_VALUE, MLflowCallback, allowed_name


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database that is made once, since that takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def run_of(callback, uri):
    from mlflow import MlflowClient

    return MlflowClient(uri).get_run(callback.run_id)


def test_the_run_holds_the_arguments_and_its_name(make_trainer, database):
    trainer = make_trainer(tracker := MLflowCallback(database, run_name="named"), learning_rate=0.02)

    trainer.train()

    run = run_of(tracker, database)
    assert run.data.params["learning_rate"] == "0.02"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "named")


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_the_status_is_how_the_run_really_ended(make_trainer, database, error, status):
    trainer = make_trainer(tracker := MLflowCallback(database), RaisesAt(5, error))
    with pytest.raises(type(error)):
        trainer.train()
    trainer.log({"later": 1.0})
    trainer.remove_callback(tracker)  # this waits for it

    assert run_of(tracker, database).info.status == status
    assert read_mlflow(database, tracker.run_id) == curves_of(trainer.state.log_history)


def test_a_run_stopped_by_a_signal_is_killed_and_one_stopped_by_a_callback_finished(track, database):
    statuses = []
    for stopped_by in ("SIGTERM", None):
        run = track(tracker := MLflowCallback(database))
        run.send("on_train_begin")
        run.state.stopped_by = stopped_by
        run.send("on_train_end")
        statuses.append(run_of(tracker, database).info.status)

    assert statuses == ["KILLED", "FINISHED"]


def test_a_resumed_run_goes_on_with_the_same_run(make_trainer, database):
    with pytest.raises(RuntimeError):
        make_trainer(first := MLflowCallback(database), RaisesAt(9)).train()
    make_trainer(tracker := MLflowCallback(database), weight_decay=0.5).train(resume_from_checkpoint=True)

    run = run_of(tracker, database)
    assert tracker.run_id == first.run_id
    assert run.info.status == "FINISHED"
    assert (run.data.params["weight_decay"], run.data.tags["resumed.weight_decay"]) == ("0.0", "0.5")


def test_a_run_that_its_checkpoint_does_not_know_is_found_by_its_tag(track, database):
    run = track(first := MLflowCallback(database))
    early = None

    class SavesEarly(MLflowCallback):
        def open(self, args, state, resume, **kwargs):
            nonlocal early
            early = self.state_dict()
            super().open(args, state, resume, **kwargs)

    run = track(first := SavesEarly(database))
    run.send("on_train_begin")
    run.send("on_train_end")
    second = MLflowCallback(database)
    second.load_state_dict(early)
    again = track(second)
    again.state.global_step = 5
    again.send("on_train_begin")
    again.send("on_train_end")

    assert early["run_id"] != first.run_id == second.run_id


def test_long_parameters_are_cut_and_kept_whole_in_a_file(track, database, tmp_path):
    import mlflow

    run = track(tracker := MLflowCallback(database, experiment="long"), prompt="x" * 10_000)
    run.send("on_train_begin")
    run.send("on_train_end")

    client = mlflow.MlflowClient(database)
    kept = client.get_run(tracker.run_id).data.params["prompt"]
    assert len(kept) == MAX_VALUE
    assert kept.endswith("xxx...")
    path = Path(client.download_artifacts(tracker.run_id, "arguments.json", str(tmp_path)))
    assert '"' + "x" * 10_000 + '"' in path.read_text()


def test_names_that_mlflow_rejects_are_changed():
    assert allowed_name("eval/top-5_acc.x y:z") == "eval/top-5_acc.x y:z"
    assert allowed_name("eval/f1@0.5(macro)") == "eval/f1_0.5_macro_"


def test_the_file_store_works_where_mlflow_allows_it(track, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    run = track(tracker := MLflowCallback(uri))
    run.send("on_train_begin")
    run.step(3)
    run.log(loss=0.5)
    run.send("on_train_end")

    assert read_mlflow(uri, tracker.run_id)["train/loss"] == [(3, 0.5)]


def test_python_and_numpy_random_numbers_are_left_alone(database, draws_nothing):
    assert draws_nothing(MLflowCallback(database))


def test_names_that_mlflow_refuses_are_changed_and_those_that_become_equal_told_apart(track, database):
    run = track(tracker := MLflowCallback(database))
    run.send("on_train_begin")
    names = ["eval_hits@1", "eval_hits#1", "eval_hits_1", "eval_per/class/", "eval_" + "x" * 300, "eval_../up"]
    run.evaluate(**{name: number / 8 for number, name in enumerate(names)})
    run.send("on_train_end")

    metrics = run_of(tracker, database).data.metrics
    assert sorted(metrics.values()) == [number / 8 for number in range(len(names))]
    assert {"eval/hits_1", "eval/hits_1_2", "eval/hits_1_3", "eval/per/class", "eval/up"} < metrics.keys()
    assert run.dispatcher.attachments["mlflow"].failures == 0


def test_a_metric_that_mlflow_refuses_costs_itself_only(track, database, monkeypatch, caplog):
    monkeypatch.setattr("trackside.integrations.mlflow.allowed_name", lambda name: name)
    run = track(tracker := MLflowCallback(database))
    run.send("on_train_begin")
    for _ in range(2):
        run.step()
        run.log(loss=1.0, **{"not@allowed": 2.0})
    run.send("on_train_end")

    assert set(run_of(tracker, database).data.metrics) == {"train/loss"}
    assert caplog.text.count("MLflow refuses the metric 'train/not@allowed'") == 1


class LogsItself(TrainerCallback):
    """Logs to MLflow itself at each step."""

    def on_step_end(self, args, state, control, **kwargs):
        import mlflow

        mlflow.log_metric("own", 1.0, step=state.global_step)


@pytest.fixture
def configured(database):
    """MLflow's functions use the database."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database)
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("own_uri", [True, False])
def test_what_a_callback_logs_itself_goes_to_the_run_of_the_training(make_trainer, database, configured, own_uri):
    trainer = make_trainer(tracker := MLflowCallback(database if own_uri else None), LogsItself(), max_steps=3)

    trainer.train()

    run = run_of(tracker, database)
    history = configured.MlflowClient().get_metric_history(tracker.run_id, "own")
    assert [point.step for point in history] == [1, 2, 3]
    assert (run.info.status, configured.active_run()) == ("FINISHED", None)


def test_a_run_that_the_user_has_started_stays_active(make_trainer, database, configured):
    with configured.start_run() as mine:
        make_trainer(tracker := MLflowCallback(), LogsItself(), max_steps=2).train()

        assert configured.active_run().info.run_id == mine.info.run_id != tracker.run_id
    assert "own" in configured.MlflowClient().get_run(mine.info.run_id).data.metrics
    assert "own" not in run_of(tracker, database).data.metrics


def test_the_experiment_that_the_user_has_set_counts(track, database, configured):
    chosen = configured.set_experiment("chosen")
    try:
        run = track(tracker := MLflowCallback())
        run.send("on_train_begin")
        run.send("on_train_end")
    finally:
        configured.set_experiment("Default")

    assert run_of(tracker, database).info.experiment_id == chosen.experiment_id
