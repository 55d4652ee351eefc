"""Arguments that a callback changes within a run: those that a run reads when it begins are told, once each."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

import pytest

from trackside import TrainerCallback
from trackside.trainer.arguments.within_run import NOT_OF_A_RUN, OF_STATE, READ_LATE, read_at_start

READ_IN_VAIN = {"fsdp", "max_steps", "seed", "tpu_num_cores"}
"""Arguments that a run reads within it although a change has no effect: of its processes, or of its last epoch."""

CONDITIONAL = {"disable_tqdm", "greater_is_better", "on_stop_signal"}
CONDITIONAL_OF_PYTORCH = {
    *("dataloader_multiprocessing_context", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
}
"""Arguments that a run reads within it only where it is told to: in a signal, with workers, with a best model."""

OF_TEST = {
    "max_steps": 4,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "optim": "sgd",
    "lr_scheduler_type": "cosine",
    "optim_args": "momentum=0.5",
    "fp16": True,
}
"""Values of the test; for all others, see `another`."""


def another(value: Any) -> Any:
    """Return a value that is not ``value``, and that would raise or count if it were read."""
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, (int, float)) else "another"


class Sets(TrainerCallback):
    """Sets attributes of the arguments or of the state after the third update."""

    role = "control"

    def __init__(self, owner: str, **values: Any) -> None:
        self.owner, self.values = owner, values

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            for name, value in self.values.items():
                setattr({"args": args, "state": state}[self.owner], name, value)


def trained(trainer_factory: Any, folder: str, *callbacks: Any) -> Any:
    trainer = trainer_factory(
        callbacks=list(callbacks),
        output_dir=str(trainer_factory.folder / folder),
        eval_dataset=trainer_factory.dataset(9),
        compute_metrics=lambda prediction: {"examples": len(prediction.label_ids)},
        num_train_epochs=2,
        **{f"{kind}_strategy": "steps" for kind in ("logging", "eval", "save")},
        **{f"{kind}_steps": 4 for kind in ("logging", "eval", "save")},
    )
    trainer.train()
    return trainer


def records(trainer: Any) -> list[Any]:
    return [(record["step"], sorted(record)) for record in trainer.state.log_history]


def saved_args(trainer_factory: Any, folder: str) -> Any:
    (last, *_) = reversed(trainer_factory.checkpoints(folder))
    args = json.loads((trainer_factory.folder / folder / last / "training_args.json").read_text())
    return {name: value for name, value in args.items() if name not in ("logging_dir", "output_dir", "run_name")}


def test_what_is_read_at_the_start_has_no_effect_within_the_run_and_is_told_once(
    trainer_factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trained(trainer_factory, "plain")
    assert "within the run" not in caplog.text
    names = read_at_start(plain.args)
    others = {name: OF_TEST.get(name, another(getattr(plain.args, name))) for name in names}

    changed = trained(trainer_factory, "changed", Sets("args", **others))

    told = {name: caplog.text.count(f"args.{name} was changed within the run, from") for name in names}
    assert told == dict.fromkeys(names, 1)
    assert {name for name in names if f"or set state.{name} for this one" in caplog.text} == set(OF_STATE)
    assert (trainer_factory.weights(changed) == trainer_factory.weights(plain)).all()
    assert records(changed) == records(plain)
    assert trainer_factory.checkpoints("changed") == trainer_factory.checkpoints("plain")
    assert saved_args(trainer_factory, "changed") == saved_args(trainer_factory, "plain")


@pytest.mark.parametrize("name", OF_STATE)
def test_the_steps_of_the_state_count_at_once(
    trainer_factory: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trained(trainer_factory, "plain")
    changed = trained(trainer_factory, "changed", Sets("state", **{name: OF_TEST[name]}))

    found = [
        (records(each), trainer_factory.checkpoints(folder))
        for each, folder in ((plain, "plain"), (changed, "changed"))
    ]
    assert found[0] != found[1]
    assert "within the run" not in caplog.text


# -- what a run reads -------------------------------------------------------------------------------------------------


class Watches(TrainerCallback):
    """Notes the arguments that are read by trackside, from the end of the first update on."""

    role = "control"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: Any) -> None:
        self.read: set[str] = set()
        self._is_on = False
        names = {item.name for item in cls.fields()}

        def noting(args: Any, name: str) -> Any:
            if self._is_on and name in names and "within_run" not in sys._getframe(1).f_globals["__name__"]:
                self.read.add(name)
            return object.__getattribute__(args, name)

        monkeypatch.setattr(cls, "__getattribute__", noting)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_on = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_on = False


def test_the_arguments_that_count_within_a_run_are_those_that_it_reads(
    trainer_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = trainer_factory.args_class
    watches = Watches(monkeypatch, cls)

    trained(trainer_factory, "watched", watches)

    conditional = CONDITIONAL | (CONDITIONAL_OF_PYTORCH if trainer_factory.framework == "pytorch" else set())
    assert watches.read - NOT_OF_A_RUN - READ_IN_VAIN == cls.counted_within_run - conditional
    assert not cls.counted_within_run & NOT_OF_A_RUN


def test_what_on_train_begin_sets_of_those_that_are_read_late_is_not_told(
    trainer_factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Begins(TrainerCallback):
        role = "control"

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for name in READ_LATE:
                setattr(args, name, another(getattr(args, name)))
            args.learning_rate = 0.5

    trained(trainer_factory, "late", Begins())

    assert caplog.text.count("was changed within the run") == 1
    assert "args.learning_rate was changed within the run" in caplog.text


def test_fields_of_a_users_own_are_not_told(trainer_factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    @dataclasses.dataclass(kw_only=True)
    class Own(trainer_factory.args_class):  # type: ignore[misc, name-defined]
        temperature: float = 1.0

    trainer_factory.args_class = Own

    trained(trainer_factory, "own", Sets("args", temperature=2.0))

    assert "within the run" not in caplog.text
