"""A bad batch on one of two ranks: both skip it or go back, and the run is as good as without it."""

from __future__ import annotations

import math

import pytest
from support.ranks import Job


@pytest.fixture(scope="module", params=["guard", pytest.param("sharded_guard", marks=pytest.mark.slow)])
def found(request, tmp_path_factory):
    job = Job("ddp_worker.py", 2, tmp_path_factory.mktemp("guard"), [request.param])
    return [rank[request.param] for rank in job.results()]


@pytest.mark.parametrize("name", ["inf", "spike", "inf, back", "spike, back", "alone"])
def test_both_ranks_act_alike_and_the_loss_is_that_of_the_clean_run(found, name):
    first, second = (rank[name] for rank in found)

    assert first == second
    assert first["steps"] == 80
    assert first["bad"] == ([] if name == "alone" else [31])
    assert first["loss"] == pytest.approx(found[0]["clean"]["loss"], rel=0.01)
    assert len(first["losses"]) == 79
    assert all(map(math.isfinite, first["losses"]))


def test_without_a_guard_the_run_is_lost(found):
    assert math.isnan(found[0]["unguarded"]["loss"])
