from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trackside.callbacks.errors import ArgumentError
from trackside.trainer.arguments.base import BaseTrainingArguments
from trackside.trainer.optim.lr_schedules import SCHEDULES, make_schedule, schedule_of, warmup_length

CASES = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("cosine_with_min_lr", {"min_lr": 1e-5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.25, "num_cycles": 1.0}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 1e-5, "power": 2.5}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 50}),
    ("warmup_stable_decay", {"num_decay_steps": 8}),
    ("warmup_stable_decay", {"num_decay_steps": 8, "num_stable_steps": 5, "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "warmup_type": "cosine", "decay_type": "linear"}),
    ("warmup_stable_decay", {"num_decay_steps": 9, "warmup_type": "1-sqrt", "decay_type": "1-sqrt"}),
]
TOTAL, RATE = 40, 3e-4


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize(("name", "kwargs"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_every_step_has_the_learning_rate_that_transformers_gives_it(name, kwargs, warmup):
    torch = pytest.importorskip("torch")
    optimization = pytest.importorskip("transformers.optimization")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    theirs = optimization.get_scheduler(name, optimizer, warmup, TOTAL, scheduler_specific_kwargs=dict(kwargs))
    ours = make_schedule(name, warmup, TOTAL, RATE, kwargs)

    for step in range(TOTAL + 5):
        assert RATE * ours(step) == theirs.get_last_lr()[0], f"step {step}"
        optimizer.step()
        theirs.step()


def test_warmup_stable_decay_lets_the_last_tenth_decay_unless_told_otherwise():
    schedule = make_schedule("warmup_stable_decay", 10, 100, 1e-3)

    assert [schedule(step) for step in (10, 50, 90)] == [1.0, 1.0, 1.0]
    assert schedule(91) < 1.0
    assert schedule(100) == 0.0


@given(
    st.sampled_from(sorted(SCHEDULES)),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 100),
    st.sampled_from([1e-4]),
)
def test_a_factor_is_between_0_and_1_whatever_the_lengths(name, warmup, total, step, rate):
    kwargs = {"min_lr_rate": 0.1} if name == "cosine_with_min_lr" else {}

    assert 0.0 <= make_schedule(name, warmup, total, rate, kwargs)(step) <= 1.0


def test_a_warmup_longer_than_the_run_is_that_of_a_longer_run():
    short, long = (make_schedule("inverse_sqrt", 50, total, RATE, {"timescale": 10}) for total in (20, 100))

    assert [short(step) for step in (0, 10, 20)] == [long(step) for step in (0, 10, 20)]


def test_an_unknown_schedule_is_refused_with_the_nearest_name():
    with pytest.raises(ArgumentError, match=r"lr_scheduler_type='cosin' is not allowed: one of .* mean 'cosine'\?"):
        make_schedule("cosin", 0, 10)


def test_an_unknown_option_is_refused_with_the_nearest_name():
    message = (
        r"lr_scheduler_kwargs=\{'num_cycle': 2\} is not allowed: cosine takes num_cycles. Did you mean 'num_cycles'\?"
    )

    with pytest.raises(ArgumentError, match=message):
        make_schedule("cosine", 0, 10, 1e-3, {"num_cycle": 2})


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        ("cosine_with_min_lr", {}, "needs either min_lr or min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-6, "min_lr_rate": 0.1}, "needs either min_lr or min_lr_rate"),
        ("polynomial", {"lr_end": 1.0}, "polynomial ends at 1.0, which must not be above learning_rate=0.001"),
        (
            "warmup_stable_decay",
            {"decay_type": "sqrt"},
            "decay_type is one of linear, cosine, 1-sqrt. Did you mean '1-sqrt'",
        ),
        ("linear", {"power": 2}, "linear takes nothing"),
    ],
)
def test_a_wrong_value_is_refused_when_the_schedule_is_made(name, kwargs, text):
    with pytest.raises(ArgumentError) as caught:
        make_schedule(name, 0, 10, 1e-3, kwargs)

    assert text in str(caught.value)


def test_negative_lengths_are_refused():
    with pytest.raises(ArgumentError, match="warmup_steps=-1 is not allowed: at least 0"):
        make_schedule("linear", -1, 10)


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"),
    [(0, 0.0, 0), (15, 0.0, 15), (0.1, 0.0, 10), (0, 0.25, 25), (5, 0.5, 5), (0.015, 0, 2), (0, 0.07, 7)],
)
def test_warmup_is_a_number_of_steps_or_a_share_of_the_run(steps, ratio, expected):
    assert warmup_length(steps, ratio, 100) == expected
    assert BaseTrainingArguments(warmup_steps=steps, warmup_ratio=ratio).get_warmup_steps(100) == expected


TAKES_ALL, HAS_NONE = "the warm-up takes", "'constant' has none; 'constant_with_warmup' has"


@pytest.mark.parametrize(
    ("steps", "schedule", "rank", "told"),
    [
        (100, "linear", 0, TAKES_ALL),
        (4, "cosine", 0, TAKES_ALL),
        (3, "linear", 0, None),
        (0.5, "linear", 0, None),
        (100, "linear", 1, None),
        (100, "constant", 0, HAS_NONE),
        (2, "constant", 0, HAS_NONE),
        (0.5, "constant", 0, HAS_NONE),
        (2, "constant_with_warmup", 0, None),
        (0, "constant", 0, None),
        (2, "constant", 1, None),
    ],
)
def test_a_warmup_that_takes_the_whole_run_or_none_of_it_is_told(steps, schedule, rank, told, caplog):
    args = SimpleNamespace(
        warmup_steps=steps,
        warmup_ratio=0.0,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=None,
        process_index=rank,
    )

    schedule_of(args, 4, 1e-3)

    assert [text for text in (TAKES_ALL, HAS_NONE) if text in caplog.text] == ([told] if told else [])


def test_a_warmup_in_two_forms_is_told(caplog):
    args = BaseTrainingArguments(warmup_steps=2, warmup_ratio=0.5)

    schedule_of(args, 10, 1e-3)

    assert "warmup_ratio=0.5 has no effect: warmup_steps=2 is given too, and makes a warm-up of 2" in caplog.text
