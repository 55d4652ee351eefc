"""find_learning_rate(): what it finds, and that it leaves everything bit for bit as it was, on both trainers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import ArgumentError, BusyError


def everything(factory, trainer):
    """Return what must not change, as comparable values."""
    streams = [random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2:]]
    if factory.framework == "pytorch":
        streams.append(factory.torch.get_rng_state().tolist())
        streams.append([(p.grad is None, p.requires_grad) for p in trainer.model.parameters()])
        streams.append([module.training for module in trainer.model.modules()])
    else:
        streams.append([np.asarray(each).tolist() for each in trainer.model.variables])  # states of generators, too
    state = {name: repr(value) for name, value in vars(trainer.state).items()}
    return streams, factory.weights(trainer).tolist(), state, vars(trainer.control).copy()


def found_without_a_trace(factory, trainer, *args, **options):
    """Search, and check that nothing has changed."""
    before = everything(factory, trainer)
    found = trainer.find_learning_rate(*args, **options)
    assert everything(factory, trainer) == before
    return found


class Heard(TrainerCallback):
    def __init__(self):
        self.events = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.events += 1


def test_the_search_finds_a_rate_and_leaves_everything_as_it_was(trainer_factory, tmp_path):
    pytest.importorskip("matplotlib")
    options = {"learning_rate": 0.01, "max_steps": 3, "callbacks": [Heard()], "logging_steps": 1}
    plain = trainer_factory(model=trainer_factory.model(dropout=0.1), **{**options, "callbacks": []})
    plain.train()
    trainer = trainer_factory(model=trainer_factory.model(dropout=0.1), **options)

    found = found_without_a_trace(
        trainer_factory, trainer, 1e-4, 100.0, steps=40, picture=tmp_path / "rates" / "lr.png"
    )

    assert (trainer.optimizer, trainer.lr_scheduler) == (None, None)
    assert options["callbacks"][0].events == 0
    assert not (trainer_factory.folder / "out").exists()
    assert (tmp_path / "rates" / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert 10 < len(found.rates) < 40  # it has diverged
    np.testing.assert_allclose(found.rates[:3], 1e-4 * 1e6 ** (np.arange(3) / 39), rtol=1e-5)
    assert 1e-3 < found.suggestion < 10
    assert str(found).startswith(f"learning_rate={found.suggestion:.3g}: the loss falls fastest there")
    assert found._repr_html_() == f"<pre>{found}</pre>"
    trainer.train()
    np.testing.assert_array_equal(trainer_factory.weights(trainer), trainer_factory.weights(plain))
    found_without_a_trace(trainer_factory, trainer, steps=10)


def test_an_optimizer_of_the_user_is_tried_as_a_copy(trainer_factory):
    model = trainer_factory.model()
    if trainer_factory.framework == "pytorch":
        optimizer = trainer_factory.torch.optim.Adam(model.parameters(), lr=0.3)
    else:
        optimizer = trainer_factory.parts.keras.optimizers.Adam(0.3)
    trainer = trainer_factory(model=model, optimizers=(optimizer, None))

    found = trainer.find_learning_rate(1e-5, 1e-1, steps=12)

    np.testing.assert_allclose([found.rates[0], found.rates[-1]], [1e-5, 1e-1], rtol=1e-5)
    assert trainer.optimizer is optimizer
    if trainer_factory.framework == "pytorch":
        assert (optimizer.state, optimizer.param_groups[0]["lr"]) == ({}, 0.3)
    else:
        assert (int(optimizer.iterations), float(optimizer.learning_rate)) == (0, pytest.approx(0.3))


def test_a_range_that_is_none_and_a_search_within_a_run_are_errors(trainer_factory):
    class Within(TrainerCallback):
        def on_step_end(self, args, state, control, trainer=None, **kwargs):
            trainer.find_learning_rate()

    trainer = trainer_factory(callbacks=[Within()])
    for options, message in (
        ({"min_rate": 0.0}, "min_rate=0.0 is not allowed: above 0, and finite"),
        ({"min_rate": 1.0, "max_rate": 0.5}, "max_rate=0.5 is not allowed: above min_rate=1, and finite"),
        ({"steps": 5}, "steps=5 is not allowed: at least 10"),
    ):
        with pytest.raises(ArgumentError, match=message):
            trainer.find_learning_rate(**options)
    with pytest.raises(BusyError, match=r"find_learning_rate\(\) was called within train\(\)"):
        trainer.train()
