from __future__ import annotations

import dataclasses
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trackside import TrainerControl, TrainerState

NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KNOWN = {item.name for item in dataclasses.fields(TrainerState)}

STATES = st.builds(
    TrainerState,
    epoch=st.none() | st.floats(0, 1e6),
    global_step=st.integers(0, 2**40),
    total_flos=st.floats(0, 1e30),
    log_history=st.lists(st.dictionaries(st.text(), NUMBERS, max_size=3), max_size=3),
    best_metric=st.none() | st.floats(allow_nan=False),
    best_model_checkpoint=st.none() | st.text(),
    trial_params=st.none() | st.dictionaries(st.text(), JSON, max_size=2),
    stateful_callbacks=st.dictionaries(st.text(), JSON, max_size=2),
    stop_reason=st.none() | st.text(),
    extra=st.dictionaries(st.text().filter(lambda name: name not in KNOWN), JSON, max_size=2),
)


@given(STATES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_a_state_comes_back_from_json_as_it_was(tmp_path, state):
    path = tmp_path / "trainer_state.json"

    state.save_to_json(path)

    assert TrainerState.load_from_json(path) == state


def test_keys_of_other_versions_are_kept(tmp_path):
    path = tmp_path / "trainer_state.json"
    path.write_text('{"global_step": 3, "of_the_future": [1, 2]}')

    TrainerState.load_from_json(path).save_to_json(path)

    kept = json.loads(path.read_text())
    assert kept["of_the_future"] == [1, 2]
    assert kept["global_step"] == 3
    assert "extra" not in kept


def test_the_first_reason_to_stop_stands():
    control = TrainerControl()

    control.stop("first")
    control.stop("second")

    assert control.should_training_stop
    assert control.stop_reason == "first"


def test_control_takes_over_the_flags_it_knows():
    class OfAnotherTrainer:
        should_training_stop = True
        should_epoch_stop = False
        should_save = True
        should_evaluate = False
        should_log = False

    control = TrainerControl(should_log=True, stop_reason="why")
    control.update_from(OfAnotherTrainer())

    assert control == TrainerControl(should_training_stop=True, should_save=True, stop_reason="why")
