from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from support.callback_examples import RaisesAt

from trackside.callbacks.errors import ArgumentError
from trackside.integrations.profiler import ProfilerCallback

UPDATE_KERNEL = ":Rsqrt"  # of the optimizer, once in an update


def traces(framework):
    """Return the traces that TensorBoard's plugins would find."""
    pattern = "*.pt.trace.json" if framework == "pytorch" else "*.xplane.pb"
    return list(Path("profile").glob(f"plugins/profile/*/{pattern}"))


def updates_in(path):
    """Return how many updates a trace shows."""
    if path.name.endswith(".json"):
        names = Counter(event.get("name", "") for event in json.loads(path.read_text())["traceEvents"])
        assert names["aten::linear"] == 2 * names["Optimizer.step#AdamW.step"]
        return names["Optimizer.step#AdamW.step"]
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    planes = xplane_pb2.XSpace.FromString(path.read_bytes()).planes
    names = Counter(
        plane.event_metadata[event.metadata_id].name
        for plane in planes
        for line in plane.lines
        for event in line.events
    )
    return sum(count for name, count in names.items() if name.endswith(UPDATE_KERNEL))


def test_the_chosen_steps_are_written_where_tensorboard_finds_them(make_trainer, framework):
    trainer = make_trainer(ProfilerCallback(3, 2, log_dir="profile"))
    trainer.train()

    (path,) = traces(framework)
    assert updates_in(path) == 2
    assert trainer.callback_report["profiler"].failures == 0


def test_without_a_folder_the_trace_lies_in_that_of_the_run(make_trainer):
    trainer = make_trainer(ProfilerCallback(3, 2))
    trainer.train()

    (path,) = [path for path in Path(trainer.args.logging_dir).glob("plugins/profile/*/*") if path.is_file()]
    assert path.stat().st_size > 1000


def test_memory_is_in_the_training_records(make_trainer):
    trainer = make_trainer(ProfilerCallback(100))
    trainer.train()

    shown = [record["memory_bytes"] for record in trainer.state.log_history if "loss" in record]
    assert len(shown) == 6
    assert 50e6 < shown[0] <= shown[-1] < 1e12


def test_memory_can_be_left_out(make_trainer):
    trainer = make_trainer(ProfilerCallback(100, memory=False))
    trainer.train()

    assert not any("memory_bytes" in record for record in trainer.state.log_history)


def test_a_run_that_raises_while_it_is_profiled_leaves_the_trace_and_the_profiler_free(make_trainer, framework):
    for _ in range(2):
        trainer = make_trainer(ProfilerCallback(2, 5, log_dir="profile"), RaisesAt(3))
        with pytest.raises(RuntimeError, match="boom"):
            trainer.train()
        assert trainer.callback_report["profiler"].failures == 0

    assert {updates_in(path) for path in traces(framework)} == {2}


@pytest.mark.parametrize("options", [{"first_step": 0}, {"steps": 0}, {"steps": 1.5}, {"steps": True}])
def test_options_are_checked(options):
    with pytest.raises(ArgumentError, match="a whole number from 1"):
        ProfilerCallback(**options)
