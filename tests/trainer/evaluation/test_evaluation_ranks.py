"""Evaluation on three ranks whose outputs differ in size and that may fail: none waits in vain, all end alike."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_group import FakeGroup

from trackside.callbacks.errors import RankError, TracksideValueError
from trackside.trainer.distributed.collectives import Collectives
from trackside.trainer.evaluation.evaluation_loop import EvaluationRun, StepResult

ARGS = SimpleNamespace(
    include_for_metrics=[], batch_eval_metrics=False, eval_accumulation_steps=None, eval_do_concat_batches=True
)


def evaluate(collectives: Collectives, widths: list[int], fails_at: int | None) -> list[Any]:
    """Return the predictions over batches of one example, as wide as ``widths`` say."""

    def batches() -> Iterator[int]:
        for number, width in enumerate(widths):
            if number == fails_at:
                raise OSError(f"cannot read batch {number}")
            yield width

    def evaluation_step(width: int, *_: Any) -> StepResult:
        return StepResult(0.5, 1, np.full((1, width), float(collectives.rank)), np.zeros(1), 1)

    engine: Any = SimpleNamespace(
        strategy=SimpleNamespace(collectives=collectives),
        evaluation=SimpleNamespace(
            delay=0, fetch=lambda nested: lambda: nested, metrics=dict, evaluation_step=evaluation_step
        ),
    )
    run = EvaluationRun(engine, ARGS, None, expected=None, only_loss=False)
    run.over(batches(), ignore_keys=None)
    output = run.output("eval")
    predictions = [] if output.predictions is None else output.predictions[:, 0].tolist()
    return [run.examples, run.steps, predictions, output.metrics]


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.tuples(*[st.integers(1, 40)] * 3), max_size=12),
    missing=st.none() | st.integers(0, 2),
    failure=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 11)),
)
def test_ranks_flush_together_whatever_the_sizes_of_their_outputs(
    batches: list[tuple[int, ...]], missing: int | None, failure: tuple[int, int] | None
) -> None:
    """One rank may have a batch less than the others, and one may fail in a batch."""

    def run(collectives: Collectives) -> Any:
        rank = collectives.rank
        widths = [sizes[rank] for sizes in batches][: -1 if rank == missing else None]
        fails_at = failure[1] if failure is not None and failure[0] == rank else None
        return collectives.outcome("the evaluation", lambda: evaluate(collectives, widths, fails_at))[rank]

    with mock.patch("trackside.trainer.evaluation.evaluation_loop.DEVICE_BYTES", 4096):
        found = FakeGroup().run(run)

    fails = failure is not None and failure[1] < len(batches) - (failure[0] == missing)
    if fails or (missing is not None and batches):
        assert all(isinstance(error, (OSError, RankError, TracksideValueError)) for error in found)
        return
    count = len(batches)
    losses = {"eval_loss": 0.5} if count else {}
    assert found == [[3 * count, count, [0.0, 1.0, 2.0] * count, losses]] * 3
