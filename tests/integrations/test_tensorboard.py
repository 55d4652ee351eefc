from __future__ import annotations

import importlib.util
import io
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorboard")

from trackside import TrainerState
from trackside.callbacks.errors import ArgumentError, MissingPackageError
from trackside.integrations.tensorboard import TensorBoardCallback


@pytest.fixture
def read():
    """Return a function that reads a run's folder with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read_folder(folder):
        accumulator = EventAccumulator(
            str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0, "images": 0}
        )
        accumulator.Reload()
        return accumulator

    return read_folder


def curves(accumulator):
    return {
        tag: [(event.step, pytest.approx(event.value, rel=1e-6, nan_ok=True)) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def train(run, steps, every=1):
    run.send("on_train_begin")
    for _ in range(steps):
        run.step()
        step = run.state.global_step
        if step % every == 0:
            run.log(loss=1 / step, learning_rate=1e-5 * step, epoch=step / 10)
        if step % (5 * every) == 0:
            run.evaluate(eval_loss=2 / step, eval_accuracy=step / 100, epoch=step / 10)


def test_every_record_comes_back_value_by_value_and_step_by_step(track, read):
    run = track(TensorBoardCallback(), logging_dir="out/runs/a")

    train(run, 10)
    run.log(train_runtime=3.0, train_loss=0.25, total_flos=1e15, epoch=1.0)
    run.send("on_train_end")

    history = run.state.log_history
    expected = {
        "train/loss": [(record["step"], record["loss"]) for record in history if "loss" in record],
        "train/learning_rate": [(record["step"], record["learning_rate"]) for record in history if "loss" in record],
        "train/epoch": [(record["step"], record["epoch"]) for record in history if "loss" in record],
        "eval/loss": [(5, 0.4), (10, 0.2)],
        "eval/accuracy": [(5, 0.05), (10, 0.1)],
        "train/train_runtime": [(10, 3.0)],
        "train/train_loss": [(10, 0.25)],
        "train/total_flos": [(10, 1e15)],
    }
    assert curves(read("out/runs/a")) == expected


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


def test_training_again_begins_the_curves_anew(track, read):
    callback = TensorBoardCallback("here")
    for steps in (5, 3):
        run = track(callback)
        train(run, steps)
        run.send("on_train_end")

    assert [step for step, _ in curves(read("here"))["train/loss"]] == [1, 2, 3]


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


def test_histograms_of_the_weights_are_written_on_request(track, read):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2).bfloat16())
    run = track(TensorBoardCallback("here", histograms_every=2))
    run.dispatcher.context["model"] = model

    run.send("on_train_begin")
    run.step(5)

    accumulator = read("here")
    events = accumulator.Histograms("0/weight")
    assert [event.step for event in events] == [2, 4]
    assert events[0].histogram_value.num == 12
    assert events[0].histogram_value.max == pytest.approx(model[0].weight.max().item())
    assert sum(events[0].histogram_value.bucket) == 12
    assert "1/bias" in accumulator.Tags()["histograms"]


def test_weights_of_keras_are_found_by_their_path(track, read):
    class Weight:  # as a keras.Variable looks from outside
        path = "dense/kernel"

        def numpy(self):
            return np.array([1.0, 2.0, np.inf, np.nan])

    run = track(TensorBoardCallback("here", histograms_every=1))
    run.dispatcher.context["model"] = types.SimpleNamespace(weights=[Weight()])
    run.send("on_train_begin")
    run.step()

    assert read("here").Histograms("dense/kernel")[0].histogram_value.num == 2


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_images_are_written_after_each_evaluation_on_request(track, read, shape):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    run = track(
        TensorBoardCallback("here", images=lambda trainer: {"inputs/first": pixels + trainer.state.global_step})
    )

    train(run, 10)
    run.send("on_train_end")

    events = read("here").Images("inputs/first")
    assert [(event.step, event.height, event.width) for event in events] == [(5, 5, 7), (10, 5, 7)]
    for event in events:
        shown = np.asarray(image.open(io.BytesIO(event.encoded_image_string)))
        assert (shown.reshape(shape) == pixels + event.step).all()


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 4, 3)), r"\(4, 4, 3\) and type float64"),
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\) and type uint8"),
    ],
)
def test_what_is_no_image_is_named(track, array, found):
    run = track(TensorBoardCallback("here", images=lambda trainer: {"inputs": array}))
    train(run, 5)

    (report,) = run.dispatcher.attachments.values()
    assert re.search(
        f"the image 'inputs' has shape {found}; height, width and 1, 3 or 4 colours", str(report.last_error)
    )


def test_images_on_either_trainer(make_trainer, read):
    trainer = make_trainer(TensorBoardCallback("here", images=first_weights), eval_strategy="epoch")
    trainer.train()

    assert [event.step for event in read("here").Images("weights/first")] == [6, 12]


def first_weights(trainer):
    from trackside.testing.tiny_trainer import weights_of

    weights = weights_of(trainer)[0]
    return {"weights/first": (255 * (weights - weights.min()) / np.ptp(weights)).astype(np.uint8)}


def test_images_come_from_a_function():
    with pytest.raises(ArgumentError, match=r"images='os.listdir' is not allowed: a function that takes the trainer"):
        TensorBoardCallback(images="os.listdir")


def test_without_histograms_it_does_not_hear_the_steps(track):
    run = track(TensorBoardCallback())

    assert run.dispatcher.receivers("on_step_end") == ()
    assert run.dispatcher.receivers("on_save") == ()


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


@pytest.mark.parametrize("every", [0, -1, 1.5, "10"])
def test_histograms_come_every_so_many_steps(every):
    with pytest.raises(ArgumentError, match="histograms_every="):
        TensorBoardCallback(histograms_every=every)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(MissingPackageError, match=r"'tensorboard'.*pip install 'trackside\[tensorboard\]'"):
        TensorBoardCallback()


def test_images_need_pillow_and_say_so_before_the_run(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else find_spec(name))
    TensorBoardCallback()

    with pytest.raises(MissingPackageError, match=r"images=.* needs the package 'PIL'.*'trackside\[tensorboard\]'"):
        TensorBoardCallback(images=lambda trainer: {})


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
