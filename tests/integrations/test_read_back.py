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

from trackside import TrainerCallback
from trackside.testing.tiny_trainer import FRAMEWORKS

NAMES = {
    *("train/loss", "train/grad_norm", "train/learning_rate", "train/epoch"),
    *("eval/loss", "eval/accuracy", "eval/runtime", "eval/samples_per_second", "eval/steps_per_second"),
    *("train/train_loss", "train/train_runtime", "train/total_flos"),
    *("train/train_samples_per_second", "train/train_steps_per_second"),
}


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
    if importlib.util.find_spec("trackio"):
        request.getfixturevalue("trackio_folder")


@pytest.fixture(params=TOOLS)
def tool(request):
    pytest.importorskip(TOOLS[request.param].package)
    return TOOLS[request.param]


class RaisesAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("boom")


def test_a_run_reads_back_as_its_history_under_the_same_names_in_every_tool(make_trainer, tool):
    trainer = make_trainer(tracker := tool.make())
    trainer.train()

    shown = tool.read(tracker)
    assert shown == tool.kept(curves_of(trainer.state.log_history))
    assert set(shown) == NAMES
    assert trainer.callback_report[tracker.name].failures == 0


def test_after_a_resume_no_step_is_shown_twice(make_trainer, tool):
    with pytest.raises(RuntimeError, match="boom"):
        make_trainer(tool.make(), RaisesAt(9)).train()  # three steps after the checkpoint of step 6
    second = make_trainer(tracker := tool.make())
    second.train(resume_from_checkpoint=True)

    shown = tool.read(tracker)
    assert [step for step, _ in shown["train/loss"]] == [2, 4, 6, 8, 10, 12]
    assert shown == tool.kept(curves_of(second.state.log_history))


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
