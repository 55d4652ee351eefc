"""Ranks whose sizes, exceptions and callbacks differ train, evaluate and save in step, or all of them end."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_engine import BATCHES, FakeTrainer
from support.fake_group import FakeGroup

from trackside.callbacks.errors import CheckpointError
from trackside.trainer.evaluation import evaluation_loop

RANKS = 3
FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")

sizes = st.lists(st.sampled_from([1, 40, 2000, 30000]), min_size=BATCHES, max_size=BATCHES)
faults = st.dictionaries(st.sampled_from(["micro_step", "evaluation_step", "write"]), st.integers(0, 9), max_size=1)
steers = st.dictionaries(st.integers(1, 8), st.sampled_from(FLAGS), max_size=3)


class Broken(Exception):
    """What a rank of a test raises."""


def run(plans: list[dict[str, Any]], **args: Any) -> tuple[list[Any], list[str]]:
    """Return what each rank ended with, and the checkpoints."""
    group = FakeGroup(RANKS, timeout_s=20.0)
    with tempfile.TemporaryDirectory() as name, patch.object(evaluation_loop, "DEVICE_BYTES", 1 << 14):
        folder = Path(name, "out")

        def rank(collectives: Any) -> Any:
            plan = plans[collectives.rank]

            def fault(place: str, count: int) -> None:
                if plan["faults"].get(place) == count:
                    raise Broken(f"{place} {count}")

            trainer = FakeTrainer(
                collectives, folder, sizes=plan["sizes"], fault=fault, steers=plan["steers"], max_steps=8, **args
            )
            trainer.train()
            records = [
                {k: v for k, v in record.items() if "runtime" not in k and "per_second" not in k}
                for record in trainer.state.log_history
            ]
            return trainer.state.global_step, trainer.state.epoch, trainer.state.best_metric, records

        ended = group.run(rank)
        return ended, sorted(path.name for path in folder.glob("checkpoint-*"))


plans = st.lists(
    st.fixed_dictionaries({"sizes": sizes, "faults": faults, "steers": steers}), min_size=RANKS, max_size=RANKS
)


@settings(max_examples=40, deadline=None)
@given(plans=plans)
def test_all_ranks_end_alike_or_all_raise(plans):
    ended, checkpoints = run(plans)

    raised = [item for item in ended if isinstance(item, BaseException)]
    if not raised:
        assert ended[0] == ended[1] == ended[2]
        assert f"checkpoint-{ended[0][0]}" in checkpoints
    else:
        assert len(raised) == RANKS
        assert any(isinstance(error, (Broken, CheckpointError)) for error in raised), [repr(e)[:300] for e in raised]


@settings(max_examples=20, deadline=None)
@given(plans=plans)
def test_a_trial_before_the_first_step_ends_alike_on_all_ranks(plans):
    ended, _ = run(plans, load_best_model_at_end=True, metric_for_best_model="size", greater_is_better=True)

    raised = [item for item in ended if isinstance(item, BaseException)]
    assert len(raised) in (0, RANKS)
    if not raised:
        assert ended[0] == ended[1] == ended[2]
