"""Every tracker on either trainer: what its tool's own reader finds is the history, value by value and step by step."""

from __future__ import annotations

import importlib.util
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from support.fork_process import Fork
from support.tracker_readers import TOOLS, curves_of, database_here

from trackside.testing import check_tracker
from trackside.testing.tiny_trainer import FRAMEWORKS


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """MLflow's database, which takes seconds to make; None without MLflow."""
    if importlib.util.find_spec("mlflow") is None:
        return None
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def _in_this_folder(request, monkeypatch, tmp_path, empty_database):
    if empty_database:
        shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")
    for package, fixture in (("trackio", "trackio_folder"), ("comet_ml", "quick_comet")):
        if importlib.util.find_spec(package):
            request.getfixturevalue(fixture)


def arguments_in_mlflow(run):
    """Return the parameters of an MLflow run; those that were changed by a resume are tags."""
    from mlflow import MlflowClient

    data = MlflowClient(database_here()).get_run(run.tracker.run_id).data
    resumed = {name.removeprefix("resumed."): text for name, text in data.tags.items() if name.startswith("resumed.")}
    return {**data.params, **resumed}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOOLS)
def test_what_a_tool_holds_is_what_was_logged_on_both_frameworks(name):
    tool = TOOLS[name]
    pytest.importorskip(tool.package)

    def read(run):
        return [(name, *point) for name, points in tool.read(run.tracker).items() for point in points]

    check_tracker(tool.make, read=read, hyperparameters=arguments_in_mlflow if name == "mlflow" else None)


SIGNALLED = """
import json, os, signal
from support.tracker_readers import TOOLS
from trackside import TrainerCallback
from trackside.testing.tiny_trainer import tiny_trainer

class Signals(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 9:
            os.kill(os.getpid(), signal.{signal})

trackers = [tool.make() for tool in TOOLS.values()]
trainer = tiny_trainer({framework!r}, "out", [*trackers, Signals()], on_stop_signal="return")
trainer.train()
states = [trainer._dispatcher.state_dicts(), trainer.state.log_history, trainer.state.stop_reason]
print(json.dumps(states))
"""


def signalled(framework, signal):
    """Train with all trackers in a process of its own that gets a signal at its ninth step."""
    for tool in TOOLS.values():
        pytest.importorskip(tool.package)
    code = SIGNALLED.format(framework=framework, signal=signal)
    process = Fork(FRAMEWORKS[framework], ["-c", code], Path.cwd())
    assert process.wait(280) is not None
    return process


@pytest.mark.slow
def test_after_a_sigkill_every_tool_shows_every_step_once(make_trainer, framework):
    killed = signalled(framework, "SIGKILL")
    trackers = {name: tool.make() for name, tool in TOOLS.items()}
    trainer = make_trainer(*trackers.values())
    trainer.train(resume_from_checkpoint=True)

    assert killed.returncode == -9
    for name, tracker in trackers.items():
        assert TOOLS[name].read(tracker) == TOOLS[name].kept(curves_of(trainer.state.log_history)), name
        assert trainer.callback_report[name].failures == 0


@pytest.mark.slow
def test_after_a_sigterm_every_tool_has_every_record_and_says_that_the_run_was_killed(framework):
    done = signalled(framework, "SIGTERM")

    states, history, reason = json.loads(done.output.splitlines()[-1])
    assert reason == "received SIGTERM"
    for name, tool in TOOLS.items():
        tracker = tool.make()
        tracker.load_state_dict(states[name])
        if name == "tensorboard":
            tracker.run_dir = tracker.log_dir
        assert tool.read(tracker) == tool.kept(curves_of(history)), name
    assert ending_in_mlflow(states["mlflow"]["run_id"]) == "KILLED"
    assert ending_in_wandb(states["wandb"]["run_id"]) == 255
    assert '"killed"' in comet_messages(states["comet"]["run_id"])


def ending_in_mlflow(run_id):
    from mlflow import MlflowClient

    return MlflowClient(database_here()).get_run(run_id).info.status


def ending_in_wandb(run_id):
    from trackside.integrations._compat.wandb_datastore import read_records

    (path,) = Path("out/wandb").glob(f"offline-run-*/run-{run_id}.wandb")
    (code,) = [record.exit.exit_code for record in read_records(path) if record.WhichOneof("record_type") == "exit"]
    return code


def comet_messages(run_id):
    with zipfile.ZipFile(f"out/comet/{run_id}.zip") as archive:
        return archive.read("messages.json").decode()
