"""The differences of two runs, by step and by stream."""

from __future__ import annotations

from trackside.cli.chaos.streams import END, Found, differences


def run(**by_step: dict[str, object]) -> Found:
    found = Found()
    for name, streams in by_step.items():
        found.seen[int(name.removeprefix("step_")), "trace"].append(streams)
    return found


def test_the_first_difference_is_that_of_the_first_step_and_there_the_cause_before_its_effects():
    first = run(step_1={"weights: a": 1, "batch": 1}, step_2={"weights: a": 2, "batch": 2}, step_3={"record: loss": 1})
    second = run(step_1={"weights: a": 1, "batch": 1}, step_2={"weights: a": 0, "batch": 0}, step_3={"record: loss": 0})

    found = [(item.step, item.stream) for item in differences(first, second)]

    assert found == [(2, "batch"), (2, "weights: a"), (3, "record: loss")]


def test_each_time_that_a_step_was_done_counts():
    whole, killed = run(step_4={"batch": 1}), run(step_4={"batch": 1})
    killed.seen[4, "trace"].append({"batch": 2})

    assert [item.step for item in differences(whole, killed)] == [4]


def test_a_stream_or_a_record_that_is_missing_is_a_difference_and_a_step_that_was_not_seen_is_not():
    whole, killed = run(step_1={"batch": 1}, step_2={"callback a: sum": 1}), run(step_2={})
    whole.ended[10]["record: loss"] = ["0.5"]
    whole.ended[END]["weights: a"] = killed.ended[END]["weights: a"] = 7

    found = [(item.step, item.stream) for item in differences(whole, killed)]

    assert found == [(2, "callback a: sum"), (10, "record: loss")]
