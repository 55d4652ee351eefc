from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support.tracked_run import train

pytest.importorskip("tensorboard")

from trackside import TrainerState
from trackside.callbacks.errors import MissingPackageError
from trackside.integrations.tensorboard import TensorBoardCallback


def curves(accumulator):
    return {
        tag: [(event.step, pytest.approx(event.value, rel=1e-6, nan_ok=True)) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def test_a_record_can_be_read_as_soon_as_it_is_logged(track, read):
    run = track(TensorBoardCallback("here"))

    run.send("on_train_begin")
    run.log(loss=0.5)

    assert curves(read("here")) == {"train/loss": [(0, 0.5)]}


def test_after_a_resume_no_step_appears_twice(track, read):
    killed = track(TensorBoardCallback(), logging_dir="out/runs/first")
    train(killed, 5)
    # the checkpoint of step 5 is written between the training record and the evaluation of that step
    states, history = killed.dispatcher.state_dicts(), killed.state.log_history[:5]
    for _ in range(3):
        killed.step()
        killed.log(loss=9.0)

    saved = TrainerState(global_step=5, max_steps=100, log_history=list(history))
    resumed = track(TensorBoardCallback(), state=saved, logging_dir="out/runs/second")
    resumed.dispatcher.load_state_dicts(states)
    resumed.send("on_train_begin")
    resumed.evaluate(eval_loss=0.4)
    resumed.step()
    resumed.log(loss=7.0)
    resumed.send("on_train_end")

    shown = curves(read("out/runs/first"))
    assert shown["train/loss"] == [(record["step"], record["loss"]) for record in history] + [(6, 7.0)]
    assert shown["eval/loss"] == [(5, 0.4)]
    assert not shown["eval/accuracy"]  # the killed run had one, the resumed one has not
    assert not Path("out/runs/second").exists()


def test_a_run_may_be_resumed_again_and_again_within_one_second(track, read):
    states = {}
    for begin in range(4):
        history = [{"loss": float(step), "step": step} for step in range(1, begin + 1)]
        state = TrainerState(global_step=begin, max_steps=9, log_history=history)
        run = track(TensorBoardCallback("here"), state=state)
        run.dispatcher.load_state_dicts(states)
        run.send("on_train_begin")
        for _ in range(3):
            run.step()
            run.log(loss=float(run.state.global_step))
        states = run.dispatcher.state_dicts()

    assert curves(read("here"))["train/loss"] == [(step, float(step)) for step in range(1, 7)]


def test_a_run_that_was_moved_goes_on_where_it_is_now(track, tmp_path):
    run = track(TensorBoardCallback(), output_dir=str(tmp_path / "old"), logging_dir=str(tmp_path / "old/runs/x"))
    train(run, 1)
    states = run.dispatcher.state_dicts()
    (tmp_path / "old").rename(tmp_path / "new")

    moved = TensorBoardCallback()
    state = TrainerState(global_step=1, max_steps=9)
    again = track(moved, state=state, output_dir=str(tmp_path / "new"), logging_dir="elsewhere")
    again.dispatcher.load_state_dicts(states)
    again.send("on_train_begin")

    assert moved.run_dir == tmp_path / "new/runs/x"


def test_training_again_has_a_folder_of_its_own_and_drops_nothing(track, read):
    callback, folders = TensorBoardCallback("here"), []
    for steps in (5, 3):
        run = track(callback)
        train(run, steps)
        run.send("on_train_end")
        folders.append(callback.run_dir.name)

    assert folders == ["here", "here_2"]
    assert [step for step, _ in curves(read("here"))["train/loss"]] == [1, 2, 3, 4, 5]
    assert [step for step, _ in curves(read("here_2"))["train/loss"]] == [1, 2, 3]


def test_a_second_training_is_resumed_in_its_own_folder(track, read):
    for steps in (5, 3):
        run = track(TensorBoardCallback("here"))
        train(run, steps)
    states, history = run.dispatcher.state_dicts(), run.state.log_history

    resumed = track(TensorBoardCallback("here"), state=TrainerState(global_step=3, max_steps=9, log_history=history))
    resumed.dispatcher.load_state_dicts(states)
    resumed.send("on_train_begin")
    resumed.step()
    resumed.log(loss=0.0)
    resumed.send("on_train_end")

    assert [step for step, _ in curves(read("here_2"))["train/loss"]] == [1, 2, 3, 4]
    assert [step for step, _ in curves(read("here"))["train/loss"]] == [1, 2, 3, 4, 5]


def test_a_run_that_is_resumed_elsewhere_brings_its_history(track, read):
    run = track(TensorBoardCallback(), output_dir="one", logging_dir="one/runs/x")
    train(run, 3)
    state = TrainerState(global_step=3, max_steps=9, log_history=run.state.log_history)

    resumed = track(callback := TensorBoardCallback(), state=state, output_dir="two", logging_dir="two/runs/x")
    resumed.dispatcher.load_state_dicts(run.dispatcher.state_dicts())
    resumed.send("on_train_begin")
    resumed.step()
    resumed.log(loss=0.0)
    resumed.send("on_train_end")

    assert [step for step, _ in curves(read(callback.run_dir))["train/loss"]] == [1, 2, 3, 4]


def test_evaluation_before_a_training_and_prediction_after_it_stay(track, read):
    run = track(callback := TensorBoardCallback("here"))
    run.evaluate(eval_loss=0.5)
    train(run, 2)
    run.send("on_train_end")
    run.send("on_predict", metrics={"test_accuracy": 0.25})

    assert curves(read("here"))["eval/loss"] == [(0, 0.5)]
    assert callback.run_dir == Path("here_2").absolute()
    assert curves(read("here_2"))["test/accuracy"] == [(2, 0.25)]


def test_an_evaluation_on_its_own_is_written_before_and_after_training(track, read):
    run = track(TensorBoardCallback(), logging_dir="out/runs/a")
    train(run, 2)
    run.send("on_train_end")

    run.evaluate(eval_loss=0.5)

    assert curves(read("out/runs/a"))["eval/loss"] == [(2, 0.5)]
    alone = track(TensorBoardCallback(), logging_dir="out/runs/b")
    alone.evaluate(eval_loss=0.25)
    assert curves(read("out/runs/b")) == {"eval/loss": [(0, 0.25)]}


def test_arguments_are_there_as_text_and_as_hyperparameters(track, read):
    run = track(TensorBoardCallback("here"), learning_rate=0.5, bf16=True, note="a|b", nothing=None)

    run.send("on_train_begin")
    run.send("on_train_end")

    accumulator = read("here")
    text = accumulator.Tensors("args/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| learning_rate | 0.5 |" in text
    assert "| note | a\\|b |" in text
    metadata = accumulator.SummaryMetadata("_hparams_/session_start_info").plugin_data
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    hparams = HParamsPluginData.FromString(metadata.content).session_start_info.hparams
    assert hparams["learning_rate"].number_value == 0.5
    assert hparams["bf16"].bool_value is True
    assert hparams["nothing"].string_value == "None"


@pytest.mark.parametrize(("fails", "status"), [(False, 1), (True, 2)])
def test_the_hyperparameters_say_how_the_run_ended(track, read, fails, status):
    run = track(TensorBoardCallback("here"))

    run.send("on_train_begin")
    if fails:
        run.send("on_exception", exception=RuntimeError())
    run.send("on_train_end")

    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    metadata = read("here").SummaryMetadata("_hparams_/session_end_info").plugin_data
    assert HParamsPluginData.FromString(metadata.content).session_end_info.status == status


def test_text_and_hyperparameters_can_be_left_out(track, read):
    run = track(TensorBoardCallback("here", text=False, hparams=False))

    run.send("on_train_begin")
    run.log(loss=1.0)
    run.send("on_train_end")

    assert read("here").Tags()["tensors"] == []


def test_only_the_first_process_writes(track):
    run = track(TensorBoardCallback("here"))
    run.state.is_world_process_zero = False

    train(run, 5)
    run.send("on_train_end")

    assert not Path("here").exists()


def test_what_is_no_number_is_left_out(track, read):
    run = track(TensorBoardCallback("here"))

    run.send("on_train_begin")
    run.log(loss=float("nan"), note="text", table=[1, 2])

    assert list(curves(read("here"))) == ["train/loss"]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingPackageError, match=r"'tensorboard'.*pip install 'trackside\[tensorboard\]'"):
        TensorBoardCallback()


LOADS_NO_FRAMEWORK = """
import sys
sys.path[:0] = {path!r}
from trackside.integrations.tensorboard import TensorBoardCallback
assert "tensorboard" not in sys.modules
from trackside.integrations._compat.event_file import EventFile
file = EventFile("here", purge_step=3)
file.scalars({{"train/loss": 0.5}}, 1)
file.text("args", "text", 1)
file.hparams({{"a": 1}})
file.hparams_end(succeeded=True)
file.histograms({{"w": [1.0, 2.0]}}, 1)
file.images({{"i": __import__("numpy").zeros((2, 2), "uint8")}}, 1)
file.close()
print(sorted({{"tensorflow", "torch", "keras"}} & set(sys.modules)))
"""


def test_neither_torch_nor_tensorflow_is_loaded():
    script = LOADS_NO_FRAMEWORK.format(path=sys.path)

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert result.stdout.strip() == "[]"
