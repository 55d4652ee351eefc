"""Callbacks of the transformers Trainer run as they are."""

from __future__ import annotations

import pytest

from trackside import TrainerState


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def test_the_state_of_transformers_callbacks_is_saved_and_restored_in_place(track, transformers):
    callback = transformers.EarlyStoppingCallback(early_stopping_patience=5)
    callback.early_stopping_patience_counter = 3
    states = track(callback).dispatcher.state_dicts()

    fresh = transformers.EarlyStoppingCallback(early_stopping_patience=1)
    track(fresh).dispatcher.load_state_dicts(states)

    assert (fresh.early_stopping_patience, fresh.early_stopping_patience_counter) == (5, 3)


def test_a_transformers_callback_keeps_its_own_name_for_on_push_begin(track, transformers):
    class Pushes(transformers.TrainerCallback):
        def on_push_begin(self, args, state, control, **kwargs): ...

    assert "pushes" in track(Pushes()).dispatcher.attachments


def test_a_state_of_transformers_reads_as_ours(tmp_path, transformers):
    theirs = transformers.TrainerState(global_step=7, log_history=[{"loss": 1.0, "step": 7}])
    theirs.save_to_json(str(tmp_path / "trainer_state.json"))

    ours = TrainerState.load_from_json(tmp_path / "trainer_state.json")

    assert (ours.global_step, ours.log_history) == (7, [{"loss": 1.0, "step": 7}])
