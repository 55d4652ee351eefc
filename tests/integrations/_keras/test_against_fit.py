"""Every callback of Keras does in a run of TFTrainer what it does in ``fit`` on the same batches."""

from __future__ import annotations

import glob

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras
from support.fit_twice import (
    EXAMPLES,
    Notes,
    X,
    Y,
    assert_same_weights,
    both,
    by_fit,
    by_trackside,
    in_folder,
    model,
    rounded,
    sgd,
)

C = keras.callbacks


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


USES = {
    "predict": lambda m: m.predict(X, verbose=0),
    "evaluate": lambda m: m.evaluate(X, Y, verbose=0, return_dict=True),
    "call": lambda m: m(X),
    "part": lambda m: keras.Model(m.inputs, m.layers[0].output).predict(X, verbose=0),
    "clone": lambda m: keras.models.clone_model(m).count_params(),
    "file": lambda m: m.save("own.keras") or keras.saving.load_model("own.keras").count_params(),
    "set_weights": lambda m: m.set_weights([weight * 1 for weight in m.get_weights()]),
    "types": lambda m: (isinstance(m, keras.Model), [type(layer).__name__ for layer in m.layers]),
    "optimizer": lambda m: (int(m.optimizer.iterations), float(m.optimizer.learning_rate)),
    "own attribute": lambda m: setattr(m, "best_value", 1.0) or m.best_value,
    "state": lambda m: (m.stop_training, m.trainable, len(m.to_json()) > 0),
}


class UsesTheModel(C.Callback):
    """Does at the end of each epoch what callbacks do with ``self.model``."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append({name: keras.tree.map_structure(np.asarray, use(self.model)) for name, use in USES.items()})


def test_what_callbacks_do_with_the_model_gives_what_it_gives_in_fit():
    (ours,), (theirs,), trainer, fitted = both(lambda: [UsesTheModel()], epochs=2)

    for own, wanted in zip(ours.found, theirs.found, strict=True):
        for name in USES:
            for found, value in zip(*map(keras.tree.flatten, (own[name], wanted[name])), strict=True):
                if found.dtype.kind == "f":
                    np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-6, err_msg=name)
                else:
                    assert found == value, name
    assert_same_weights(trainer.model, fitted)
