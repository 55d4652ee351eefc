from __future__ import annotations

import pytest

pytest.importorskip("trackio")

from support.callback_examples import RaisesAt

from trackside.integrations.trackio import TrackioCallback

pytestmark = pytest.mark.usefixtures("trackio_folder")


def test_the_database_holds_the_arguments(make_trainer):
    from trackio.sqlite_storage import SQLiteStorage

    trainer = make_trainer(tracker := TrackioCallback(run_name="named"), learning_rate=0.02)
    trainer.train()

    assert tracker.trackio_name.startswith("named-")
    assert SQLiteStorage.get_run_config(tracker.project, tracker.trackio_name)["learning_rate"] == 0.02


def test_a_resumed_run_goes_on_with_the_same_run(make_trainer):
    with pytest.raises(RuntimeError):
        make_trainer(first := TrackioCallback(), RaisesAt(9)).train()
    make_trainer(tracker := TrackioCallback()).train(resume_from_checkpoint=True)

    assert tracker.trackio_name == first.trackio_name


def test_python_and_numpy_random_numbers_are_left_alone(draws_nothing):
    assert draws_nothing(TrackioCallback())
