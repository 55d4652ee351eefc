"""What goes wrong on one of two ranks ends both, each with the error that came first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ranks import Job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def faults(folder: Path) -> Iterator[dict[str, Job]]:
    """Jobs that fail, started together, since they mostly wait."""
    names = ("raises", "killed", "leaves", "hangs", "save_fails", "data_fails")
    names += ("uneven", "uneven_evaluation", "own_words", "trial_fails")
    jobs = {name: Job("faults_worker.py", 2, folder / name, [name]) for name in names}
    yield jobs
    for job in jobs.values():
        job.kill()


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all_with_that_error(faults: dict[str, Job]) -> None:
    first, second = faults["raises"].wait()

    assert first.status != 0
    assert second.status != 0
    assert (second.result["error"], first.result["error"]) == ("KeyError", "RankError")
    assert first.result["text"].startswith("rank 1 failed first, in step 4: KeyError: 'the data of rank 1 is bad'")
    assert "in _raise" in first.result["text"]


@pytest.mark.slow
def test_a_killed_rank_is_named(faults: dict[str, Job]) -> None:
    first, second = faults["killed"].wait()

    assert second.status == -9
    assert first.result["error"] == "RankError"
    assert "rank 1 is gone, last seen in" in first.result["text"]


@pytest.mark.slow
def test_a_rank_that_leaves_ends_all(faults: dict[str, Job]) -> None:
    first, second = faults["leaves"].wait()

    assert second.status == 0
    assert first.status != 0
    assert first.result["text"].startswith("rank 1 failed first, in step 4: SystemExit: 0")


@pytest.mark.slow
def test_a_timeout_names_who_waits_in_what_and_for_whom(faults: dict[str, Job]) -> None:
    first, second = faults["hangs"].wait()

    assert first.result["error"] == "RankError"
    assert "could not finish the agreement on flags in step 4: all live on: rank 1 is in step 4" in first.result["text"]
    assert (second.status, second.result) == (1, None)
    assert "this process still waits in step 4, and is ended" in second.output


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_all(faults: dict[str, Job]) -> None:
    first, second = faults["save_fails"].wait()

    assert first.result["error"] == "CheckpointError"
    assert second.result["text"].startswith("rank 0 failed")
    assert "CheckpointError: output_dir=" in second.result["text"]
    assert "cannot be written" in second.result["text"]


@pytest.mark.slow
def test_data_that_one_rank_cannot_read_ends_all(faults: dict[str, Job]) -> None:
    first, second = faults["data_fails"].wait()

    assert second.result["error"] == "OSError"
    assert "rank 1 failed first, in step 1: OSError: cannot read example" in first.result["text"]


@pytest.mark.slow
def test_an_error_that_speaks_of_a_store_is_told_as_it_is(faults: dict[str, Job]) -> None:
    first, second = faults["own_words"].wait()

    assert second.result["text"] == "the feature store has no row 17"
    assert first.result["text"].startswith("rank 1 failed first, in step 4: RuntimeError: the feature store has no row")


@pytest.mark.slow
def test_an_example_that_one_rank_cannot_evaluate_is_told_by_its_own_error(faults: dict[str, Job]) -> None:
    first, second = faults["trial_fails"].wait()

    assert (second.result["error"], second.result["text"]) == ("OSError", "cannot read example")
    assert "rank 1 failed first, in step 2: OSError: cannot read example" in first.result["text"]
    assert (first.result["step"], second.result["step"]) == (1, 1)  # the trial before the first step was a warning


@pytest.mark.slow
def test_data_of_other_sizes_on_other_ranks_are_an_error_at_once(faults: dict[str, Job]) -> None:
    for rank in faults["uneven"].wait():
        assert rank.result["text"].startswith(
            "train_dataset is not the same on all processes: rank 0 has 3 batches an epoch, of 17 examples, rank 1 has "
            "3 batches an epoch, of 18 examples. Give the whole of it to each"
        )
    for rank in faults["uneven_evaluation"].wait():
        assert "the ranks evaluated 1 and at least 2 batches, which must be as many on each" in rank.result["text"]


@pytest.mark.slow
def test_after_an_error_on_all_processes_every_trainer_meets_anew(folder: Path) -> None:
    (alone,) = Job("ddp_worker.py", 1, folder / "one", ["plain"]).results()
    expected = alone["plain"]["17 examples, accumulation 1"]["weights"]

    for found in Job("faults_worker.py", 2, folder / "goes_on", ["goes_on"]).results():
        assert found["goes_on"]["weights"] == pytest.approx(expected, rel=0, abs=1e-10)
        assert found["goes_on"]["of an older trainer"] == found["goes_on"]["weights"]


@pytest.mark.slow
def test_a_parameter_that_later_gets_no_gradient_is_an_error_that_names_the_argument(folder: Path) -> None:
    for ended in Job("faults_worker.py", 2, folder / "unused_later", ["unused_later"]).wait():
        assert "ddp_find_unused_parameters=None is not allowed: True for a model" in ended.result["text"]
