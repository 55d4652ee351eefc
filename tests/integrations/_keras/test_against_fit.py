"""Every callback of Keras does in a run of TFTrainer what it does in ``fit`` on the same batches."""

from __future__ import annotations

import csv
import glob
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from support.tracker_readers import read_tensorboard

from trackside import KerasCallbackAdapter

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
C = keras.callbacks

EXAMPLES, BATCH = 20, 8  # the last batch of an epoch has 4 examples
NOISE = np.random.default_rng(0)
X = NOISE.normal(size=(EXAMPLES, 4)).astype("float32")
Y = (X @ NOISE.normal(size=(4, 1)) + NOISE.normal(size=(EXAMPLES, 1))).astype("float32")
VALIDATION = X[::-1].copy(), (Y[::-1] + 0.5).astype("float32")


def model():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(1)])


def sgd(rate=0.05, **options):
    return keras.optimizers.SGD(rate, **options)


def by_fit(*callbacks, epochs=6, y=Y, optimizer=None, validation=VALIDATION):
    """Train by Keras; return the model."""
    made = model()
    made.compile(loss="mse", optimizer=optimizer or sgd())
    shown = {"validation_data": validation, "validation_batch_size": BATCH, "verbose": 0, "shuffle": False}
    made.fit(X, y, batch_size=BATCH, epochs=epochs, callbacks=list(callbacks), **shown)
    return made


def by_trackside(*callbacks, epochs=6, y=Y, optimizer=None, resume=None, **options):
    """Train by TFTrainer on the same batches; return the trainer."""
    from trackside import TFTrainer, TFTrainingArguments

    class InOrder(TFTrainer):
        def get_train_tfdataset(self):
            return tf.data.Dataset.from_tensor_slices((X, y)).batch(BATCH)

    defaults = {
        "num_train_epochs": epochs,
        "max_steps": 3 * epochs,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "disable_tqdm": True,
    }
    args = TFTrainingArguments("out", **{**defaults, **options})
    trainer = InOrder(
        model(),
        args,
        eval_dataset=VALIDATION,
        loss_fn="mse",
        optimizers=(optimizer or sgd(), None),
        callbacks=[KerasCallbackAdapter(callback) for callback in callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def in_folder(name, run, *callbacks, **options):
    Path(name).mkdir()
    before = Path.cwd()
    os.chdir(name)
    try:
        return run(*callbacks, **options)
    finally:
        os.chdir(before)


def both(make, **options):
    """Run the callbacks of ``make()`` by both, each in a folder of its own; return what they hold, and the models."""
    ours, theirs = make(), make()
    trainer = in_folder("trackside", by_trackside, *ours, **options)
    fitted = in_folder("fit", by_fit, *theirs, **options)
    return ours, theirs, trainer, fitted


def assert_same_weights(one, other):
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


class Notes(C.Callback):
    """Writes down every call, with its logs."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs):
        self.seen.append(("train_begin", {**logs, **self.params}))

    def on_train_end(self, logs):
        self.seen.append(("train_end", dict(logs)))


def _noting(name):
    def with_number(self, number, logs):
        self.seen.append((name, number, dict(logs)))

    def without(self, logs):
        self.seen.append((name, dict(logs)))

    return with_number if "epoch" in name or "batch" in name else without


for _name in ("epoch_begin", "epoch_end", "test_begin", "test_end", "train_batch_begin", "train_batch_end"):
    setattr(Notes, f"on_{_name}", _noting(_name))
for _name in ("test_batch_begin", "test_batch_end"):
    setattr(Notes, f"on_{_name}", _noting(_name))


def rounded(calls):
    return [
        tuple(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in p.items()} if isinstance(p, dict) else p
            for p in c
        )
        for c in calls
    ]


def test_every_hook_comes_at_the_moment_and_with_the_logs_of_fit():
    (ours,), (theirs,), trainer, fitted = both(lambda: [Notes()], epochs=3)

    assert rounded(ours.seen) == rounded(theirs.seen)
    assert len(ours.seen) == 2 + 3 * (4 + 2 * 3 + 2 * 3)
    assert_same_weights(trainer.model, fitted)


def test_history_holds_what_fit_returns():
    (ours,), (theirs,), _, _ = both(lambda: [C.History()])

    assert ours.epoch == theirs.epoch
    assert list(ours.history) == list(theirs.history)
    for name, values in theirs.history.items():
        assert ours.history[name] == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"monitor": "val_loss", "patience": 1, "min_delta": 0.3},
        {"monitor": "loss", "patience": 0, "mode": "max"},
        {"monitor": "val_loss", "patience": 1, "baseline": 0.1},
        {"monitor": "val_loss", "patience": 0, "mode": "max", "start_from_epoch": 3},
        {"monitor": "val_loss", "patience": 2, "mode": "max", "restore_best_weights": True},
        {"monitor": "val_loss", "patience": 50, "mode": "max", "restore_best_weights": True},
    ],
)
def test_early_stopping_stops_at_the_same_epoch_with_the_same_weights(options):
    (ours,), (theirs,), trainer, fitted = both(lambda: [C.EarlyStopping(**options)], epochs=8)

    assert (ours.stopped_epoch, ours.best_epoch, ours.wait) == (theirs.stopped_epoch, theirs.best_epoch, theirs.wait)
    assert ours.best == pytest.approx(theirs.best, rel=1e-5)
    assert trainer.state.global_step == 3 * len(fitted.history.epoch)
    assert_same_weights(trainer.model, fitted)


CHECKPOINTS = {
    "each epoch": {"filepath": "m-{epoch:02d}-{val_loss:.3f}.keras"},
    "the best": {"filepath": "best-{epoch}.keras", "save_best_only": True, "mode": "max", "monitor": "loss"},
    "weights": {"filepath": "w-{epoch}.weights.h5", "save_weights_only": True},
    "every fourth batch": {"filepath": "f-{epoch}-{batch}-{loss:.3f}.keras", "save_freq": 4},
}


@pytest.mark.parametrize("options", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_model_checkpoint_writes_the_same_files(options):
    def checkpoint():
        return [C.ModelCheckpoint(**options)]

    (ours,), (theirs,), _, _ = both(checkpoint, epochs=4)

    files = sorted(os.listdir("fit"))
    assert files == sorted(name for name in os.listdir("trackside") if name.endswith((".keras", ".h5")))
    assert ours.best == theirs.best or ours.best == pytest.approx(theirs.best, rel=1e-5)
    for name in files:
        if name.endswith(".keras"):
            one, other = keras.models.load_model(f"trackside/{name}"), keras.models.load_model(f"fit/{name}")
            assert type(one.optimizer) is type(other.optimizer)
            assert int(one.optimizer.iterations) == int(other.optimizer.iterations)
        else:
            one, other = model(), model()
            one.load_weights(f"trackside/{name}")
            other.load_weights(f"fit/{name}")
        assert_same_weights(one, other)


def rows_of(path, separator=","):
    with Path(path).open() as file:
        return list(csv.DictReader(file, delimiter=separator))


def test_the_csv_logger_writes_the_same_file():
    both(lambda: [C.CSVLogger("log.csv", separator=";")])

    ours, theirs = rows_of("trackside/log.csv", ";"), rows_of("fit/log.csv", ";")
    assert len(ours) == len(theirs) == 6
    for own, row in zip(ours, theirs, strict=True):
        assert list(own) == list(row)
        assert [float(v) for v in own.values()] == pytest.approx([float(v) for v in row.values()], rel=1e-5)


class WarmUp(C.Callback):
    """Raises the rate over the first four batches."""

    def on_train_begin(self, logs=None):
        self.seen = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.seen += 1
        if self.seen <= 4:
            self.model.optimizer.learning_rate = 0.0125 * self.seen


RATES = {
    "scheduler": lambda: [C.LearningRateScheduler(lambda epoch, rate: rate * 0.5 if epoch % 2 else 0.05), C.History()],
    "plateau": lambda: [C.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=0.5), C.History()],
    "warm-up": lambda: [WarmUp(), C.LambdaCallback()],
}


@pytest.mark.parametrize("make", RATES.values(), ids=RATES)
def test_learning_rates_are_those_of_fit(make):
    ours, theirs, trainer, fitted = both(make)

    assert float(trainer.optimizer.learning_rate) == pytest.approx(float(fitted.optimizer.learning_rate))
    assert_same_weights(trainer.model, fitted)
    if isinstance(ours[1], C.History):
        assert list(ours[1].history) == list(theirs[1].history)
        rates = ours[1].history["learning_rate"]
        assert rates == pytest.approx(theirs[1].history["learning_rate"])
        assert len(set(rates)) > 1


@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_swap_ema_weights_evaluates_the_average_and_leaves_the_right_weights(swap_on_epoch):
    def make():
        return [
            C.SwapEMAWeights(swap_on_epoch),
            C.History(),
            C.ModelCheckpoint("{epoch}.weights.h5", save_weights_only=True),
        ]

    ours = make()
    theirs = make()
    trainer = in_folder("trackside", by_trackside, *ours, optimizer=sgd(use_ema=True, ema_momentum=0.9))
    in_folder("fit", by_fit, *theirs, optimizer=sgd(use_ema=True, ema_momentum=0.9))

    assert ours[1].history["val_loss"] == pytest.approx(theirs[1].history["val_loss"], rel=1e-5)
    assert ours[1].history["loss"] == pytest.approx(theirs[1].history["loss"], rel=1e-5)
    for name in sorted(glob.glob("*.weights.h5", root_dir="fit")):
        one, other = model(), model()
        one.load_weights(f"trackside/{name}")
        other.load_weights(f"fit/{name}")
        assert_same_weights(one, other)
    before = trainer.model.get_weights()
    averaged = trainer.predict(X).predictions
    assert all((a == b).all() for a, b in zip(before, trainer.model.get_weights(), strict=True))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(ours[1].history["val_loss"][-1], rel=1e-5)
    assert averaged.shape == (EXAMPLES, 1)


def test_terminate_on_nan_stops_after_the_same_batch():
    bad = Y.copy()
    bad[12] = np.nan
    (_, ours), (_, theirs), trainer, _ = both(lambda: [C.TerminateOnNaN(), Notes()], y=bad)

    assert trainer.state.global_step == 2
    assert [call[:-1] for call in ours.seen] == [call[:-1] for call in theirs.seen]
    with pytest.raises(RuntimeError, match="NaN or Inf loss encountered at batch 1"):
        by_trackside(C.TerminateOnNaN(raise_error=True), y=bad, overwrite_output_dir=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"update_freq": 2}, {"histogram_freq": 1, "write_images": True}, {"write_steps_per_second": True}],
    ids=str,
)
def test_tensorboard_shows_the_same_points(options):
    both(lambda: [C.TensorBoard("tb", **options)], epochs=3)

    for part in ("train", "validation"):
        ours, theirs = read_tensorboard(f"trackside/tb/{part}"), read_tensorboard(f"fit/tb/{part}")
        assert set(ours) == set(theirs)
        for name in set(theirs):
            assert [step for step, _ in ours[name]] == [step for step, _ in theirs[name]]
            if "per_second" not in name:
                assert [value for _, value in ours[name]] == pytest.approx(
                    [value for _, value in theirs[name]], rel=1e-4
                )


def test_the_remote_monitor_posts_the_same():
    posted = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        both(lambda: [C.RemoteMonitor(root=f"http://127.0.0.1:{server.server_port}", send_as_json=True)], epochs=2)
    finally:
        server.shutdown()
        server.server_close()

    assert [sorted(item) for item in posted] == [["epoch", "loss", "val_loss"]] * 4
    for ours, theirs in zip(posted[:2], posted[2:], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_progress_bar_shows_each_epoch(capsys):
    by_trackside(C.ProgbarLogger(), epochs=2, disable_tqdm=False, callbacks={"printer": None})

    shown = capsys.readouterr().out
    assert "Epoch 1/2" in shown
    assert "Epoch 2/2" in shown
    assert shown.count("val_loss") >= 2


def test_lambda_callbacks_take_the_signatures_of_keras():
    said: dict[str, list] = {"ours": [], "theirs": []}

    def make(to):
        return C.LambdaCallback(
            on_train_begin=lambda logs: to.append("train_begin"),
            on_epoch_begin=lambda epoch, logs: to.append(("epoch_begin", epoch)),
            on_train_batch_begin=lambda batch, logs: to.append(("batch_begin", batch)),
            on_train_batch_end=lambda batch, logs: to.append(("batch_end", batch, sorted(logs))),
            on_epoch_end=lambda epoch, logs: to.append(("epoch_end", epoch, sorted(logs))),
            on_train_end=lambda logs: to.append(("train_end", sorted(logs))),
        )

    by_trackside(make(said["ours"]), epochs=2)
    by_fit(make(said["theirs"]), epochs=2)

    assert said["ours"] == said["theirs"]
    assert len(said["ours"]) == 2 + 2 * (2 + 6)
