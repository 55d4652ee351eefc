from __future__ import annotations

import json
import random

import numpy as np
import pytest

from trackside.callbacks.state import TrainerState
from trackside.trainer.checkpointing.files.documents import DocumentError, has_schema, read_document
from trackside.trainer.checkpointing.random_state import host_random_state
from trackside.trainer.progress import Progress


def reading(folder, name, content):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_document(folder, name)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("trainer_state.json", TrainerState().to_dict()),
        ("trainer_state.json", TrainerState(epoch=0.5, best_metric=float("nan"), log_history=[{"loss": 1}]).to_dict()),
        ("progress.json", Progress(pending_loss=float("nan")).to_dict()),
        ("progress.json", {"epoch": 0, "batches_in_epoch": 0, "examples_in_epoch": 0, "of_a_later_version": [1]}),
        ("rng_state_12.json", {**host_random_state(), "tensorflow": [1, 2]}),
        ("scheduler.json", {"last_epoch": 4}),
    ],
)
def test_what_is_written_can_be_read(tmp_path, name, values):
    random.seed(1), np.random.seed(1)

    found = reading(tmp_path, name, values)

    assert json.dumps(found) == json.dumps(values)


PLACE = {"epoch": 0, "batches_in_epoch": 1, "examples_in_epoch": 8}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "progress.json",
            PLACE | {"epoch": "0"},
            "in progress.json that is not allowed: epoch is '0'",
        ),
        ("progress.json", PLACE | {"epoch": 1.0}, "epoch is 1.0; allowed is a whole number from 0"),
        ("progress.json", PLACE | {"epoch": True}, "epoch is True; allowed is a whole number from 0"),
        ("progress.json", PLACE | {"epoch": -1}, "epoch is -1; allowed is a whole number from 0"),
        ("progress.json", PLACE | {"epoch": 2**63}, "epoch is 9223372036854775808; allowed is a whole number from 0"),
        ("progress.json", {"epoch": 0, "batches_in_epoch": 0}, "the file lacks 'examples_in_epoch'"),
        ("progress.json", [], "the file is []; allowed is an object"),
        ("progress.json", '{"epoch": 0, "epoch": 1}', "the key 'epoch' is there twice"),
        ("progress.json", "[" * 300 + "]" * 300, "nested more than 200 levels deep"),
        ("progress.json", "[" * 200_000, "has a damaged progress.json: RecursionError"),
        ("progress.json", "1" * 5000, "has a damaged progress.json: ValueError"),
        ("progress.json", '{"epoch":', "has a damaged progress.json: JSONDecodeError"),
        ("trainer_state.json", {}, "the file lacks 'global_step'"),
        ("trainer_state.json", {"global_step": 1, "epoch": float("nan")}, "epoch is nan; allowed is a finite number"),
        ("trainer_state.json", '{"global_step": 1, "epoch": 1e999}', "epoch is inf; allowed is a finite number from 0"),
        ("trainer_state.json", {"global_step": 1, "best_metric": 10**400}, "allowed is a number, or null"),
        (
            "trainer_state.json",
            {"global_step": 1, "log_history": [1]},
            "log_history is [1]; allowed is a list",
        ),
        (
            "rng_state_0.json",
            host_random_state() | {"python": [3, [1], None]},
            "python[1] is [1]; allowed is 625",
        ),
        ("shards/index.json", {"tensors": {"a": [[1], [[[0], [1], ["f", -1, 2]]]]}, "values": {}}, "is -1; allowed is"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_key_and_what_is(tmp_path, name, content, message):
    with pytest.raises(DocumentError) as caught:
        reading(tmp_path, name, content)

    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_only_the_files_of_the_run_have_a_schema():
    assert [
        name for name in ("a.json", "sub/progress.json", "rng_state_3.json", "optimizer.pt") if has_schema(name)
    ] == ["rng_state_3.json"]
