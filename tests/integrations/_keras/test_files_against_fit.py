"""Callbacks of Keras that write leave the same files in a run of TFTrainer as in ``fit`` on the same batches."""

from __future__ import annotations

import csv
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.tracker_readers import read_tensorboard

pytest.importorskip("tensorflow")

import keras
from support.fit_twice import assert_same_weights, both, by_trackside, model

C = keras.callbacks


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
