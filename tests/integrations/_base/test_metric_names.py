from __future__ import annotations

import pytest

from trackside.integrations._base.metric_names import as_number, rewrite_logs


@pytest.mark.parametrize(
    ("logs", "shown"),
    [
        ({"loss": 1.0, "grad_norm": 2.0, "epoch": 0.5, "step": 3}, ["train/loss", "train/grad_norm", "train/epoch"]),
        ({"eval_loss": 1.0, "eval_a_accuracy": 0.5, "epoch": 0.5, "step": 3}, ["eval/loss", "eval/a_accuracy"]),
        ({"test_loss": 1.0}, ["test/loss"]),
        ({"train_runtime": 1.0, "train_loss": 2.0, "epoch": 1.0}, ["train/train_runtime", "train/train_loss"]),
        ({"evaluations": 1.0, "eval": 2.0}, ["train/evaluations", "train/eval"]),
    ],
)
def test_names_say_where_a_value_comes_from(logs, shown):
    assert list(rewrite_logs(logs)) == shown


def test_no_two_records_of_one_step_show_the_same_name():
    records = [
        {"loss": 1.0, "epoch": 1.0, "step": 9},
        {"eval_loss": 1.0, "epoch": 1.0, "step": 9},
        {"train_loss": 1.0, "train_runtime": 1.0, "total_flos": 0.0, "epoch": 1.0, "step": 9},
    ]

    names = [name for record in records for name in rewrite_logs(record)]

    assert len(names) == len(set(names))


def test_numbers_of_any_kind_are_floats_and_the_rest_is_nothing():
    np = pytest.importorskip("numpy")

    assert [as_number(value) for value in (1, True, 0.5, np.float32(0.25), np.array(2))] == [1.0, 1.0, 0.5, 0.25, 2.0]
    assert [as_number(value) for value in ("3", None, [1.0], {"a": 1}, np.array([1, 2]))] == [None] * 5
