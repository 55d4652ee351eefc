"""Values become plain data where they come in; what cannot be kept is told by name, an observer's costs itself."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trackside import TrainerCallback
from trackside.callbacks.errors import NotPlainError, TracksideTypeError


def tensor(factory: Any, value: Any) -> Any:
    if factory.framework == "pytorch":
        return factory.torch.tensor(value)
    return factory.parts.tf.constant(value)


def state_file(factory: Any, step: int) -> dict[str, Any]:
    return json.loads((factory.folder / "out" / f"checkpoint-{step}" / "trainer_state.json").read_text())


def test_metrics_may_be_of_numpy_and_of_the_framework(trainer_factory):
    given = {
        "tensor": tensor(trainer_factory, 0.5),
        "numpy": np.float32(0.25),
        "one": np.array([0.75]),
        "per_class": np.array([0.5, 0.25]),
        "nested": {"a": tensor(trainer_factory, [1, 2]), 3: np.bool_(True)},
        "undefined": float("nan"),
    }
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(8), compute_metrics=lambda prediction: dict(given), max_steps=2,
        eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
    )  # fmt: skip

    returned = trainer.evaluate()
    trainer.train()

    expected = {"tensor": 0.5, "numpy": 0.25, "one": 0.75, "per_class": [0.5, 0.25], "nested": {"a": [1, 2], "3": True}}
    assert {name: returned[f"eval_{name}"] for name in expected} == expected
    kept = next(item for item in state_file(trainer_factory, 2)["log_history"] if "eval_loss" in item)
    assert {name: kept[f"eval_{name}"] for name in expected} == expected
    assert kept["eval_undefined"] != kept["eval_undefined"]


def test_a_metric_that_cannot_be_kept_is_told_by_name(trainer_factory):
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(8), compute_metrics=lambda prediction: {"figure": {"axes": object()}}
    )

    with pytest.raises(NotPlainError, match=r"compute_metrics\(\)\['figure'\]\['axes'\] is of type object"):
        trainer.evaluate()


def test_a_metric_that_cannot_be_kept_is_told_before_the_first_step_if_the_best_model_is_kept(trainer_factory):
    trainer = trainer_factory(
        eval_dataset=trainer_factory.dataset(8), compute_metrics=lambda prediction: {"figure": object()}, max_steps=4,
        eval_strategy="steps", save_strategy="steps", load_best_model_at_end=True,
    )  # fmt: skip

    with pytest.raises(NotPlainError, match="figure"):
        trainer.train()

    assert trainer.state.global_step == 0


def test_what_is_logged_and_saved_becomes_plain(trainer_factory):
    trainer = trainer_factory()
    given = {"aux": tensor(trainer_factory, 0.5), "path": Path("x"), "seen": {2, 1}}

    trainer.log(given)
    trainer.log_metrics("eval", given)
    trainer.save_metrics("eval", given)

    plain = {"aux": 0.5, "path": "x", "seen": [1, 2]}
    assert trainer.state.log_history == [{**plain, "step": 0}]
    assert json.loads((trainer_factory.folder / "out" / "eval_results.json").read_text()) == plain
    with pytest.raises(NotPlainError, match=r"log\(\)\['rule'\] is of type function"):
        trainer.log({"rule": lambda: 0})
    with pytest.raises(NotPlainError, match=r"metrics\['raw'\] is of type bytes"):
        trainer.save_metrics("eval", {"raw": b""})


def test_a_logged_number_that_is_not_finite_is_kept_and_told_once_by_name(trainer_factory, caplog):
    trainer = trainer_factory()

    for _ in range(2):
        trainer.log({"reward": tensor(trainer_factory, float("nan")), "odds": float("inf"), "missing": None, "fine": 1})

    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [message.partition(" in the record of step 0")[0] for message in told] == ["reward is nan", "odds is inf"]
    assert [str(record["reward"]) for record in trainer.state.log_history] == ["nan", "nan"]


class Observer(TrainerCallback):
    role = "observer"


class Logs(Observer):
    def on_step_end(self, args, state, control, trainer, **kwargs):
        trainer.log({"mine": state.global_step, "figure": object()})


class Keeps(Observer):
    count = 0

    def on_step_end(self, args, state, control, **kwargs):
        self.count += 1

    def state_dict(self):
        return {"count": np.int64(self.count), "seen": {1, 2}, "figure": object()}


class Adds(Observer):
    def metrics_to_log(self, args, state, **context):
        return {"mine": np.float32(state.global_step), "figure": object()}


class AddsList(Observer):
    def metrics_to_log(self, args, state, **context):
        return [("a", 1), 2]


@pytest.mark.parametrize(
    ("cls", "place"),
    [(Logs, "log()['figure']"), (Keeps, "state_dict()['figure']"), (Adds, "metrics_to_log['figure']")],
)
def test_a_value_of_an_observer_that_cannot_be_kept_costs_itself(trainer_factory, caplog, cls, place):
    watcher = cls()
    trainer = trainer_factory(
        callbacks=[watcher], max_steps=6, logging_steps=1, save_strategy="steps", save_steps=1, save_total_limit=2
    )

    trainer.train()

    assert trainer.state.global_step == 6
    assert trainer_factory.checkpoints() == ["checkpoint-5", "checkpoint-6"]
    assert trainer.callback_report[watcher_name(cls)].detached_after is None
    told = [record.message for record in caplog.records if place in record.message]
    assert len(told) == 1
    assert repr(watcher_name(cls)) in told[0]
    if cls is not Keeps:
        assert [item["mine"] for item in trainer.state.log_history if "mine" in item] == [1, 2, 3, 4, 5, 6]


def watcher_name(cls: type) -> str:
    return {"AddsList": "adds_list"}.get(cls.__name__, cls.__name__.lower())


def test_a_monitor_that_returns_something_else_fails_as_an_observer(trainer_factory):
    trainer = trainer_factory(callbacks=[AddsList()], max_steps=4, logging_steps=1)

    trainer.train()

    assert trainer.callback_report["adds_list"].detached_after == 3


def test_the_state_of_an_observer_comes_back_as_it_was_and_what_does_not_is_told_once(trainer_factory, caplog):
    class Restores(Observer):
        restored: Any = None

        def on_step_end(self, args, state, control, **kwargs):
            pass

        def state_dict(self):
            return {"best": np.float32(1.5), 3: ("a", {b"x"}), "last": tensor(trainer_factory, [2])}

        def load_state_dict(self, state):
            self.restored = state

    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer_factory(callbacks=[Restores()], **options).train()
    again = Restores()
    trainer_factory(callbacks=[again], **options).train(resume_from_checkpoint=True)

    assert again.restored == {"best": 1.5, 3: ("a", {b"x"}), "last": [2]}
    assert type(again.restored["best"]) is np.float32
    assert caplog.text.count("state_dict()['last'] is of type") == 2  # once a trainer
    assert "and comes back from a checkpoint as numpy.ndarray" in caplog.text


def test_a_monitor_replaces_no_value_of_the_record(trainer_factory, caplog):
    class Health(Observer):
        def metrics_to_log(self, args, state, **context):
            return {"loss": float("nan"), "epoch": 9, "step": 9, "health": 1}

    trainer = trainer_factory(callbacks=[Health()], max_steps=2, logging_steps=1)

    trainer.train()

    first = trainer.state.log_history[0]
    assert first["loss"] == first["loss"]
    assert (first["step"], first["health"], first["epoch"] < 1) == (1, 1, True)
    told = [record.message for record in caplog.records if "'health'" in record.message]
    assert len(told) == 3
    assert any("its 'loss' is left out" in message for message in told)


def test_each_callback_gets_nested_values_of_its_own(trainer_factory):
    class Tidies(Observer):
        def on_log(self, args, state, control, logs, **kwargs):
            logs.get("eval_rouge", {}).clear()

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_rouge"]["scores"].append(9)

    rouge = {"r1": 0.5, "scores": [1, 2]}
    trainer = trainer_factory(
        callbacks=[Tidies()],
        eval_dataset=trainer_factory.dataset(8),
        compute_metrics=lambda prediction: {"rouge": rouge},
    )

    returned = trainer.evaluate()

    assert returned["eval_rouge"] == trainer.state.log_history[-1]["eval_rouge"] == {"r1": 0.5, "scores": [1, 2]}
    assert rouge == {"r1": 0.5, "scores": [1, 2]}


def exits(event: str, role: str) -> TrainerCallback:
    def leave(self, *args: Any, **kwargs: Any) -> None:
        sys.exit("not logged in")

    return type("Exits", (TrainerCallback,), {"role": role, event: leave})()


@pytest.mark.parametrize("event", ["on_train_begin", "on_step_end", "on_log", "on_save", "on_train_end"])
def test_an_observer_that_exits_has_only_failed(trainer_factory, event):
    trainer = trainer_factory(
        callbacks=[exits(event, "observer")], max_steps=2, logging_steps=1, save_strategy="steps", save_steps=1
    )

    trainer.train()

    assert trainer.state.global_step == 2
    assert isinstance(trainer.callback_report["exits"].last_error, SystemExit)


def test_a_control_callback_that_exits_reaches_everyone_and_hides_no_error(trainer_factory):
    class Breaks(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            raise ValueError("the real error")

    heard: list[str] = []

    class Closes(Observer):
        def on_exception(self, *args, **kwargs):
            heard.append("on_exception")

        def on_train_end(self, *args, **kwargs):
            heard.append("on_train_end")

    trainer = trainer_factory(callbacks=[exits("on_exception", "control"), Breaks(), Closes()], max_steps=2)

    with pytest.raises(ValueError, match="the real error") as raised:
        trainer.train()

    assert heard == ["on_exception", "on_train_end"]
    assert any("SystemExit('not logged in')" in note for note in raised.value.__notes__)


def test_a_metric_replaces_no_value_of_the_evaluation(trainer_factory, caplog):
    given = {"loss": 98.0, "eval_loss": 99.0, "eval_runtime": 97.0, "accuracy": 0.5, "eval_accuracy": 0.25}
    trainer = trainer_factory(eval_dataset=trainer_factory.dataset(8))
    own = trainer.evaluate()["eval_loss"]
    trainer.compute_metrics = lambda prediction: dict(given)

    first, second = trainer.evaluate(), trainer.evaluate()

    assert first["eval_loss"] == second["eval_loss"] == own
    assert (first["eval_accuracy"], first["eval_runtime"] < 97.0) == (0.5, True)
    told = "compute_metrics() gives a second value of eval_accuracy, eval_loss, eval_runtime, which is left out"
    assert [record.message for record in caplog.records if "compute_metrics" in record.message] == [told]


def test_what_log_takes_is_told(trainer_factory):
    trainer = trainer_factory()

    with pytest.raises(TracksideTypeError, match=r"log\(\) takes a dict of values by name, not list"):
        trainer.log([("loss", 1.0)])
    trainer.log(types.MappingProxyType({"own": 1.0}))

    assert [record["own"] for record in trainer.state.log_history] == [1.0]
