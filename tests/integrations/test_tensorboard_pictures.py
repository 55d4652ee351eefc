"""Histograms of the weights and images in TensorBoard, read back with its own reader."""

from __future__ import annotations

import importlib.util
import io
import re
import types

import numpy as np
import pytest
from support.tracked_run import train

pytest.importorskip("tensorboard")

from trackside.callbacks.errors import ArgumentError, MissingPackageError
from trackside.integrations.tensorboard import TensorBoardCallback


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


def test_without_histograms_it_does_not_hear_the_steps(track):
    run = track(TensorBoardCallback())

    assert run.dispatcher.receivers("on_step_end") == ()
    assert run.dispatcher.receivers("on_save") == ()


@pytest.mark.parametrize("every", [0, -1, 1.5, "10"])
def test_histograms_come_every_so_many_steps(every):
    with pytest.raises(ArgumentError, match="histograms_every="):
        TensorBoardCallback(histograms_every=every)


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


def test_images_need_pillow_and_say_so_before_the_run(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else find_spec(name))
    TensorBoardCallback()

    with pytest.raises(MissingPackageError, match=r"images=.* needs the package 'PIL'.*'trackside\[tensorboard\]'"):
        TensorBoardCallback(images=lambda trainer: {})
