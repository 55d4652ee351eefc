"""Two and three real processes on gloo: what they do together is what one process does alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.ranks import Job
from workers import ddp_common

CASES = [
    "plain",
    "token_weights",
    "streams",
    "exchanges",
    "options",
    "foreign_loaders",
    "unusual_models",
    "evaluation",
    "examples_seen",
    "saving",
    "search",
]
CASES_OF_TWO = ["control", "agreements", "trackers", "bf16", "syncs", "slow_rank", "lonely_monitor", "dropin"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[Any]:
    """What each of two processes found."""
    return Job("ddp_worker.py", 2, folder / "two", CASES + CASES_OF_TWO).results()


@pytest.fixture(scope="module")
def three(folder: Path, two: list[Any]) -> list[Any]:
    """What each of three found, which also resume from the checkpoint of the two."""
    (folder / "three").mkdir()
    (folder / "three" / "saved").symlink_to(folder / "two" / "saved")
    names = [name for name in CASES if name != "saving"]
    return Job("ddp_worker.py", 3, folder / "three", [*names, "resuming"]).results()


@pytest.fixture(scope="module")
def alone(folder: Path, two: list[Any]) -> dict[str, Any]:
    """What one process finds, which also resumes from the checkpoint of the two."""
    (folder / "one").mkdir()
    (folder / "one" / "saved").symlink_to(folder / "two" / "saved")
    names = [name for name in CASES if name not in ("examples_seen", "saving")]
    return Job("ddp_worker.py", 1, folder / "one", [*names, "resuming"]).results()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["options", "plain", "token_weights", "streams", "exchanges", "unusual_models"])
@pytest.mark.parametrize("world", ["two", "three"])
def test_ranks_have_the_weights_losses_and_norms_of_one_process(
    name: str, world: str, alone: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    for rank in request.getfixturevalue(world):
        for case, expected in alone[name].items():
            found = rank[name][case]
            assert found["steps"] == expected["steps"], case
            for what in ("weights", "losses", "norms"):
                assert found[what] == pytest.approx(expected[what], rel=0, abs=1e-10), (case, what)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
def test_evaluation_counts_each_example_once(world: str, alone: dict[str, Any], request: pytest.FixtureRequest) -> None:
    for rank in request.getfixturevalue(world):
        for case, expected in alone["evaluation"].items():
            found = rank["evaluation"][case]
            if "metrics" in expected:
                assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-12), case
            if "order" in expected:
                assert found["labels"] == expected["order"], case
                torch.testing.assert_close(*(torch.tensor(it["predictions"]) for it in (found, expected)), msg=case)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
def test_outputs_of_different_lengths_are_padded(world: str, request: pytest.FixtureRequest) -> None:
    for rank in request.getfixturevalue(world):
        for case in ("ragged", "ragged on a small device"):
            found = torch.tensor(rank["evaluation"][case]["predictions"])

            assert found[:, 0].tolist() == [float(number) for number in range(1, 12)]
            assert found.shape == (11, 11)
            assert set(found[found != found[:, :1]].tolist()) == {-100.0}


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
def test_every_rank_reports_the_same(world: str, request: pytest.FixtureRequest) -> None:
    names = [name for name in CASES if name not in ("examples_seen", "saving")]

    first, *others = (
        {**{name: rank.get(name) for name in names}, "saving": rank.get("saving", {}).get("whole")}
        for rank in request.getfixturevalue(world)
    )

    assert others == [first] * len(others)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
def test_a_search_is_that_of_one_process(world: str, alone: dict[str, Any], request: pytest.FixtureRequest) -> None:
    expected = alone["search"]
    assert sorted(steps for _, steps in expected["ended"]) == [3, 6, 6]  # one was given up after its first epoch

    for rank in request.getfixturevalue(world):
        found = rank["search"]
        assert (found["best"], found["ended"]) == (expected["best"], expected["ended"])
        assert found["objective"] == pytest.approx(expected["objective"], abs=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
@pytest.mark.parametrize("kind", ["map", "stream"])
def test_each_example_is_seen_once_an_epoch_over_ranks_and_workers(
    world: str, kind: str, request: pytest.FixtureRequest
) -> None:
    ranks = request.getfixturevalue(world)

    for epoch in ("0", "1"):
        seen = [example for rank in ranks for example in rank["examples_seen"][kind]["seen"].get(epoch, [])]
        assert sorted(seen) == list(range(17))


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
def test_ranks_take_turns_with_a_loader_that_knows_nothing_of_ranks(
    world: str, alone: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    expected = alone["foreign_loaders"]["own"]
    for rank in request.getfixturevalue(world):
        found = rank["foreign_loaders"]["own"]
        for what in ("weights", "losses", "metrics"):
            assert found[what] == pytest.approx(expected[what], rel=0, abs=1e-10)


@pytest.mark.slow
def test_a_checkpoint_of_two_ranks_resumes_on_one_and_on_three(
    two: list[Any], three: list[Any], alone: dict[str, Any]
) -> None:
    whole = two[0]["saving"]["whole"]

    for found in (alone["resuming"]["resumed"], three[0]["resuming"]["resumed"]):
        assert found["steps"] == whole["steps"]
        assert found["weights"] == pytest.approx(whole["weights"], rel=0, abs=1e-10)


@pytest.mark.slow
def test_the_random_states_of_all_ranks_reach_the_one_that_writes_them(two: list[Any], folder: Path) -> None:
    first, second = (rank["saving"] for rank in two)
    saved = folder / "two" / "saved"

    assert first["received"] == [list(pair) for pair in zip(first["sent"], second["sent"], strict=True)]
    assert second["received"] == [None] * len(second["sent"])
    assert len(first["sent"]) == len(list(saved.glob("checkpoint-*"))) > 1
    for checkpoint in saved.glob("checkpoint-*"):
        own, other = (torch.load(checkpoint / f"rng_state_{rank}.pt")["torch"] for rank in (0, 1))
        assert not torch.equal(own, other)


@pytest.mark.slow
def test_the_first_rank_decides_and_all_hear_it(two: list[Any]) -> None:
    first, second = (rank["control"] for rank in two)

    assert first == second
    assert (first["the first stops"]["steps"], first["the first stops"]["reason"]) == (3, "enough")
    assert first["the last stops"]["steps"] == 6
    assert (first["the first stops at a log"]["steps"], first["the first stops at a log"]["reason"]) == (2, "logged")
    assert first["the first stops at the start"]["steps"] == 0
    assert (first["the first ends an epoch"]["epoch"], first["the first ends an epoch"]["steps"]) == (2.0, 5)
    assert first["the first saves at a log"]["checkpoints"] == ["checkpoint-2", "checkpoint-6"]
    asked = first["a control file stops"]
    assert (asked["steps"], asked["reason"]) == (3, "asked for by .control/stop")
    assert asked["checkpoints"] == ["checkpoint-3"]


@pytest.mark.slow
def test_a_stop_signal_of_any_rank_saves_and_stops_all_at_the_same_step(two: list[Any]) -> None:
    for rank in two:
        found = rank["control"]["the last gets SIGTERM"]
        assert found["reason"] == "received SIGTERM"
        assert found["steps"] in (2, 3, 4)
        assert found["checkpoints"] == [f"checkpoint-{found['steps']}"]


@pytest.mark.slow
def test_a_stop_signal_of_one_rank_ends_an_evaluation_on_all(two: list[Any]) -> None:
    for rank in two:
        found = rank["control"]["the last gets SIGTERM in an evaluation"]
        assert (found["steps"], found["reason"], found["evaluations"]) == (2, "received SIGTERM", 0)
        assert found["checkpoints"] == ["checkpoint-2"]


@pytest.mark.slow
def test_updates_are_agreed_on_only_where_a_callback_may_steer(two: list[Any]) -> None:
    for rank in two:
        counts = rank["agreements"]
        assert counts["one callback"] - counts["no callbacks"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("world", ["two", "three"])
def test_an_update_exchanges_its_numbers_once(world: str, request: pytest.FixtureRequest) -> None:
    for rank in request.getfixturevalue(world):
        counts = {name: found["exchanges"] for name, found in rank["exchanges"].items()}
        assert counts == {"plain": 1, "accumulated": 1, "own backward": 1, "looking for unused": 6}


@pytest.mark.slow
def test_what_scripts_for_transformers_do_with_several_processes(two: list[Any]) -> None:
    first, second = (rank["dropin"] for rank in two)

    assert (first["was there"], second["was there"]) == (False, True)
    assert first["gathered"] == second["gathered"] == [0, 0, 1, 1]
    assert first["objects"] == second["objects"] == ["rank 0", "rank 1"]
    assert (first["is main"], second["is main"]) == (True, False)
    assert first["weights"] == second["weights"]  # also with ddp_static_graph
    assert first["weights"] == pytest.approx(two[0]["plain"]["17 examples, accumulation 3"]["weights"], rel=1e-12)


@pytest.mark.slow
def test_trackers_write_once(two: list[Any]) -> None:
    assert two[0]["trackers"]["files"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", ["forward", "data", "sharded"])
def test_the_rank_that_holds_up_the_others_is_named(case: str, two: list[Any]) -> None:
    first, second = (rank["slow_rank"][case] for rank in two)

    for record in first["records"][1:]:  # the first one has all that is done once
        assert record["slowest_rank"] == 1
        assert record["own_time_s_rank1"] == record["own_time_s_max"] > 0.15
        assert record["own_time_s_rank1"] > record["own_time_s_rank0"]
        assert record["step_time_s_mean"] > record["own_time_s_mean"] > record["own_time_s_max"] / 2
    timed = [{name: value for name, value in r.items() if "time_s" in name} for r in first["records"]]
    assert timed == [{name: r[name] for name in timed[0]} for r in second["records"]]
    (warning,) = first["warned"]
    assert warning.startswith("rank 1 (")
    assert second["warned"] == []


@pytest.mark.slow
def test_a_callback_that_talks_to_the_others_must_be_on_all(two: list[Any]) -> None:
    for rank in two:
        assert rank["lonely_monitor"]["error"].startswith("the callback 'straggler_monitor' talks to that of every")
        assert "not attached on rank 1; attach it on all" in rank["lonely_monitor"]["error"]


@pytest.mark.slow
def test_bf16_trains_alike_on_all_ranks(two: list[Any]) -> None:
    assert two[0]["bf16"] == two[1]["bf16"]
    assert all(map(math.isfinite, two[0]["bf16"]["bf16"]["losses"]))


@pytest.mark.slow
def test_gradients_are_exchanged_after_the_last_micro_batch_only(two: list[Any]) -> None:
    for rank in two:
        later = [entry for entry in rank["syncs"]["seen"] if entry[0] > 0]  # the first update is exchanged without DDP
        assert later == [[step, index == 2] for step in (1, 2) for index in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_the_variables_of_other_launchers_do_as_well(launcher: str, alone: dict[str, Any], folder: Path) -> None:
    for rank in Job("ddp_worker.py", 2, folder / launcher, ["streams"], launcher=launcher).results():
        found, expected = rank["streams"]["stream"], alone["streams"]["stream"]
        assert found["weights"] == pytest.approx(expected["weights"], rel=0, abs=1e-10)


def test_one_process_is_a_group_of_one(tmp_path: Path) -> None:
    trainer = ddp_common.make(tmp_path)

    strategy = trainer._engine.strategy
    assert (strategy.rank, strategy.world_size) == (0, 1)
    assert trainer.gather_objects("x") == strategy.collectives.gather("a value", "x") == ["x"]
