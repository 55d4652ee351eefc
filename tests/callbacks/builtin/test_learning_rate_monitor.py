from __future__ import annotations

import pytest

from trackside import LearningRateMonitorCallback


def logged(track, optimizer, **options):
    run = track(LearningRateMonitorCallback(**options))
    run.dispatcher.context["optimizer"] = optimizer
    return run.dispatcher.logged_metrics({})


def test_a_single_group_is_the_learning_rate(track):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.25)

    assert logged(track, optimizer) == {"learning_rate": 0.25}


def test_several_groups_are_numbered_or_named(track):
    torch = pytest.importorskip("torch")
    groups = [{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 0.5, "name": "head"}]
    optimizer = torch.optim.AdamW(groups, lr=0.25, betas=(0.75, 0.999))

    assert logged(track, optimizer, momentum=True) == {
        "learning_rate_0": 0.25,
        "learning_rate_head": 0.5,
        "momentum_0": 0.75,
        "momentum_head": 0.75,
    }


def test_an_optimizer_of_keras_is_a_single_group(track):
    class OfKeras:  # as keras.optimizers.SGD looks from outside
        learning_rate = 0.125
        momentum = 0.5

    assert logged(track, OfKeras(), momentum=True) == {"learning_rate": 0.125, "momentum": 0.5}


def test_without_an_optimizer_there_is_nothing_to_log(track):
    assert logged(track, None) == {}


def test_optimizers_without_momentum_log_none(track):
    torch = pytest.importorskip("torch")

    assert logged(track, torch.optim.Adagrad([torch.zeros(1)], lr=0.25), momentum=True) == {"learning_rate": 0.25}


def test_groups_of_one_name_are_told_apart(track):
    torch = pytest.importorskip("torch")
    named = [("head", 0.25), ("head", 0.5), ("head_0", 1.0), (None, 2.0)]
    groups = [{"params": [torch.zeros(1)], "lr": rate, **({"name": name} if name else {})} for name, rate in named]

    assert logged(track, torch.optim.SGD(groups)) == {
        "learning_rate_head_1": 0.25,
        "learning_rate_head_2": 0.5,
        "learning_rate_head_0": 1.0,
        "learning_rate_3": 2.0,
    }
