"""Two real processes on gloo whose data changes in a run, or whose data or model the user has prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.ranks import Job

ALIKE = ["resized", "own_loader"]
REFUSED = ["resized_unevenly", "unfrozen", "wrapped_already"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[Any]:
    return Job("ddp_worker.py", 2, folder / "two", ALIKE + REFUSED).results()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_do_what_one_does(folder: Path, two: list[Any], name: str) -> None:
    alone = Job("ddp_worker.py", 1, folder / "one" / name, [name]).results()[0][name]

    for found in two:
        assert found[name]["steps"] == alone["steps"]
        assert found[name]["weights"] == pytest.approx(alone["weights"], rel=1e-10, abs=1e-12)
        assert found[name]["losses"] == pytest.approx(alone["losses"], rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resized_unevenly", "train_dataset is not the same on all processes: rank 0 has"),
        ("unfrozen", "were unfrozen after the model was distributed"),
        ("wrapped_already", "the model is in DistributedDataParallel already; give Trainer the module inside"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_by_name_on_each(two: list[Any], name: str, words: str) -> None:
    for found in two:
        assert words in found[name]
