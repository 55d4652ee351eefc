"""A resumed run leaves what Keras callbacks hold and write as a run that was not interrupted does."""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras
from support.fit_twice import Notes, assert_same_weights, by_trackside, in_folder

C = keras.callbacks
SAVED = {"save_strategy": "epoch", "epochs": 6}


class Die(C.Callback):
    """Ends the run with an exception at a batch."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.at:
            raise RuntimeError("killed")


def interrupted(make, *, at=10, **options):
    """Run the callbacks of ``make()`` whole, and killed at a step and resumed; return both outcomes."""
    whole = make()
    trainer = in_folder("whole", by_trackside, *whole, **{**SAVED, **options})
    with pytest.raises(RuntimeError, match="killed"):
        in_folder("resumed", by_trackside, *make(), Die(at), **{**SAVED, **options})
    resumed = make()
    Path("resumed").rename("killed")
    second = in_folder("killed", by_trackside, *resumed, resume=True, **{**SAVED, **options})
    return whole, resumed, trainer, second


def test_the_csv_logger_writes_each_epoch_once():
    interrupted(lambda: [C.CSVLogger("log.csv")], at=17)

    assert Path("killed/log.csv").read_text() == Path("whole/log.csv").read_text()


def test_rows_after_the_checkpoint_are_written_anew():
    interrupted(lambda: [C.CSVLogger("log.csv")], at=17, save_strategy="steps", save_steps=7)  # rows of 5 epochs exist

    assert Path("killed/log.csv").read_text() == Path("whole/log.csv").read_text()


STATES = {
    "patience": lambda: C.EarlyStopping("val_loss", patience=4, mode="max"),
    "best weights": lambda: C.EarlyStopping("val_loss", patience=50, mode="max", restore_best_weights=True),
    "delta": lambda: C.EarlyStopping("val_loss", patience=3, min_delta=0.6),
    "plateau": lambda: C.ReduceLROnPlateau("val_loss", factor=0.5, patience=2, min_delta=0.5),
    "best file": lambda: C.ModelCheckpoint("best.keras", save_best_only=True, monitor="loss", mode="max"),
    "frequency": lambda: C.ModelCheckpoint("{epoch}-{batch}.weights.h5", save_freq=4, save_weights_only=True),
}


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_decisions_go_on(make):
    (whole,), (resumed,), first, second = interrupted(lambda: [make()])

    for name in ("wait", "best", "best_epoch", "stopped_epoch", "cooldown_counter", "_batches_seen_since_last_saving"):
        assert getattr(resumed, name, None) == getattr(whole, name, None), name
    assert second.state.global_step == first.state.global_step
    assert float(second.optimizer.learning_rate) == float(first.optimizer.learning_rate)
    assert_same_weights(first.model, second.model)
    files = {path.name for path in Path("whole").glob("*.*")}
    assert {path.name for path in Path("killed").glob("*.*")} == files


def test_a_history_goes_on():
    (whole,), (resumed,), _, _ = interrupted(lambda: [C.History()])

    assert resumed.history == whole.history
    assert resumed.epoch == whole.epoch == list(range(6))


def test_batches_and_their_mean_loss_go_on_within_an_epoch():
    (whole,), (resumed,), _, _ = interrupted(lambda: [Notes()], at=9, save_strategy="steps", save_steps=8)

    assert resumed.seen.count(("epoch_begin", 2, {})) == 2  # in the second run, too
    second = len(resumed.seen) - 1 - resumed.seen[::-1].index(("epoch_begin", 2, {}))
    assert resumed.seen[:second] + resumed.seen[second + 1 :] == whole.seen


class Holds(C.Callback):
    """Holds values of many kinds."""

    def __init__(self, limit=3):
        super().__init__()
        self.limit = limit
        self.values = {"seen": set(), 1: (0, [np.float32(0)]), "order": OrderedDict(a=1)}
        self.array = np.zeros((2, 0, 3), "float16")
        self.lambda_ = lambda: None

    def on_epoch_end(self, epoch, logs=None):
        self.values["seen"].add(epoch)
        self.values[1] = (epoch, [np.float32(logs["loss"])])
        self.array = np.full((2, 1), epoch, "int16")


def test_values_of_many_kinds_are_kept_and_new_options_win():
    (whole,), (resumed,), _, _ = interrupted(lambda: [Holds()])
    in_folder("killed", by_trackside, Holds(limit=5), resume=True, **{**SAVED, "epochs": 6})

    assert resumed.values == whole.values
    assert resumed.array.dtype == np.int16
    assert (resumed.array == whole.array).all()
    fresh = Holds(limit=5)
    in_folder("killed", by_trackside, fresh, resume=True, **{**SAVED, "epochs": 7})
    assert fresh.limit == 5
    assert fresh.values["seen"] == set(range(7))


class Signals(C.Callback):
    """Sends a stop signal after the last batch of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 6:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_epoch_whose_evaluation_a_signal_prevents_ends_in_the_resumed_run():
    whole, first, second = Notes(), Notes(), Notes()
    by_trackside(whole, **SAVED)
    by_trackside(first, Signals(), on_stop_signal="return", overwrite_output_dir=True, **SAVED)
    by_trackside(second, resume=True, **SAVED)

    assert [call[1] for call in first.seen if call[0] == "epoch_end"] == [0]
    ended = [call for call in second.seen if call[0] == "epoch_end"]
    assert [call[1] for call in ended] == list(range(6))
    assert ended == [call for call in whole.seen if call[0] == "epoch_end"]
