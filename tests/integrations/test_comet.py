from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

pytest.importorskip("comet_ml")

from support.callback_examples import RaisesAt

from trackside.integrations.comet import QUIET, CometCallback

pytestmark = pytest.mark.usefixtures("quick_comet")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")


def zips():
    return sorted(Path("out/comet").glob("*.zip"), key=lambda path: path.stat().st_mtime)


def messages(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("messages.json").decode()


def test_the_zip_holds_the_arguments_and_how_the_run_ended(make_trainer):
    trainer = make_trainer(tracker := CometCallback(online=False, tags=["a"]), learning_rate=0.02)
    trainer.train()

    (path,) = zips()
    assert path.name == f"{tracker.run_id}.zip"
    assert '"learning_rate"' in messages(path)
    assert '"finished"' in messages(path)


def test_a_resumed_run_goes_on_with_the_same_experiment(make_trainer):
    with pytest.raises(RuntimeError):
        make_trainer(first := CometCallback(online=False), RaisesAt(9)).train()
    make_trainer(tracker := CometCallback(online=False)).train(resume_from_checkpoint=True)

    paths = zips()
    assert len(paths) == 2
    assert tracker.run_id == first.run_id
    assert '"failed"' in messages(paths[0])
    assert '"finished"' in messages(paths[1])


def test_python_and_numpy_random_numbers_are_left_alone(draws_nothing):
    assert draws_nothing(CometCallback(online=False))


def test_a_later_part_of_a_resumed_run_replaces_no_earlier_one(make_trainer):
    with pytest.raises(RuntimeError):
        make_trainer(CometCallback(online=False), RaisesAt(9)).train()
    trainer = make_trainer(CometCallback(online=False))
    trainer.train(resume_from_checkpoint=True)

    trainer.evaluate()

    assert len(zips()) == 3
    assert '"train/train_loss"' in messages(zips()[1])


def test_an_experiment_that_the_user_has_opened_stays_open(track):
    import comet_ml

    mine = comet_ml.OfflineExperiment(offline_directory="mine", **QUIET)
    run = track(tracker := CometCallback(online=False))

    run.send("on_train_begin")
    run.log(loss=1.0)
    run.send("on_train_end")

    assert comet_ml.get_running_experiment() is mine
    assert mine.alive
    assert run.dispatcher.attachments["comet"].failures == 0
    mine.end()
    (path,) = zips()
    assert path.name == f"{tracker.run_id}.zip"
