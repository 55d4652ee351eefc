"""An update equals that of one large batch however it is split, or the run has said that it cannot know."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers")

from support import any_split
from support.any_split import KNOWN, LOSSES, MIXED, UNKNOWN, WIDTH, Split, is_doubted, told, trainer_of
from support.fake_ranks import train_on_ranks
from support.ranks import Job
from support.torch_models import weights_of


def updated(split: Split, folder: str) -> Any:
    """Return the weights after one update, its loss, and what was told."""
    with told() as messages:
        trainers = train_on_ranks(split.ranks, lambda arguments: trainer_of(split, folder, arguments))
    assert {trainer.state.global_step for trainer in trainers} == {1}
    records = trainers[0].state.log_history
    return weights_of(trainers[0].model), records[0].get("loss"), messages


def structures_of(loss: str) -> list[str]:
    """Return the structures in which a large batch has the loss of its parts."""
    return [name for name in any_split.STRUCTURES if name != "trimmed" or loss in any_split.OF_LABELS]


def lengths() -> Any:
    return st.lists(st.integers(0, WIDTH), min_size=1, max_size=9).filter(lambda found: max(found) > 1)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_update_equals_that_of_one_large_batch_or_the_run_has_said_so(
    loss: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("run"))
    split = data.draw(
        st.builds(
            Split,
            st.just(loss),
            lengths(),
            st.sampled_from(structures_of(loss)),
            st.sampled_from(any_split.MODELS),
            st.integers(1, 3),
            st.integers(1, 4),
        )
    )

    whole, loss_of_whole, _ = updated(split.whole, folder)
    cut, loss_of_cut, messages = updated(split, folder)

    if not is_doubted(messages):
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-10)
        if loss_of_whole is not None and split.ranks == 1:
            assert loss_of_cut == pytest.approx(loss_of_whole, abs=1e-9)


@pytest.mark.parametrize("loss", [*UNKNOWN, *MIXED])
def test_where_it_cannot_know_it_says_so_once(loss: str, tmp_path: Any) -> None:
    *_, messages = updated(Split(loss, [6, 2, 3, 1], accumulation=2), str(tmp_path))

    assert len([message for message in messages if "one large batch" in message]) == 1


@pytest.mark.parametrize("model", any_split.MODELS)
@pytest.mark.parametrize("loss", KNOWN)
def test_where_it_knows_it_says_nothing(loss: str, model: str, tmp_path: Any) -> None:
    *_, messages = updated(Split(loss, [6, 2, 3, 1, 5, 4, 2, 6], model=model, ranks=2, accumulation=2), str(tmp_path))

    assert messages == []


# -- real processes ---------------------------------------------------------------------------------------------------


def drawn(ranks: int, count: int) -> list[Split]:
    """Return splits that are spread over losses, structures, models and accumulations."""
    generator = random.Random(ranks)
    found = []
    for index in range(count):
        loss = list(LOSSES)[index % len(LOSSES)]
        lengths = [generator.randint(0, WIDTH) for _ in range(generator.randint(1, 9))] + [generator.randint(2, WIDTH)]
        structure, model = generator.choice(structures_of(loss)), generator.choice(any_split.MODELS)
        found.append(Split(loss, lengths, structure, model, ranks, generator.randint(1, 4)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_an_update_of_real_processes_equals_that_of_one_large_batch_or_they_have_said_so(
    ranks: int, tmp_path: Path
) -> None:
    splits = drawn(ranks, 2 * len(LOSSES))
    (tmp_path / "splits.json").write_text(json.dumps([asdict(split) for split in splits]))

    first, *others = Job("split_worker.py", ranks, tmp_path, ["splits.json"]).results()

    known = 0
    for index, split in enumerate(splits):
        assert all(other[index]["weights"] == first[index]["weights"] for other in others), split
        if not is_doubted(first[index]["told"]):
            known += 1
            whole, *_ = updated(split.whole, str(tmp_path / "whole"))
            assert first[index]["weights"] == pytest.approx(whole.tolist(), rel=0, abs=1e-10), split
    assert known >= len(splits) / 2
