"""Arguments that a callback changes within a run: those that a run reads when it begins are told, once each."""

from __future__ import annotations

from typing import Any

import pytest

from trackside import TrainerCallback
from trackside.trainer.arguments.within_run import OF_STATE, READ_AT_START

OTHERS = {
    "max_steps": 4,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 2,
    "limit_train_batches": 2,
    "overfit_batches": 1,
    "learning_rate": 0.5,
    "weight_decay": 3.0,
    "adam_beta1": 0.1,
    "adam_beta2": 0.1,
    "adam_epsilon": 0.1,
    "optim": "sgd",
    "optim_args": "momentum=0.5",
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "warmup_steps": 5,
    "warmup_ratio": 0.9,
    "label_smoothing_factor": 0.3,
    "fp16": True,
    "bf16": True,
    "save_total_limit": 1,
}


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
        num_train_epochs=2,
        **{f"{kind}_strategy": "steps" for kind in ("logging", "eval", "save")},
        **{f"{kind}_steps": 4 for kind in ("logging", "eval", "save")},
    )
    trainer.train()
    return trainer


def records(trainer: Any) -> list[Any]:
    return [(record["step"], sorted(record)) for record in trainer.state.log_history]


def test_what_is_read_at_the_start_has_no_effect_within_the_run_and_is_told_once(
    trainer_factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(OTHERS) == set(READ_AT_START)
    plain = trained(trainer_factory, "plain")
    assert "within the run" not in caplog.text

    changed = trained(trainer_factory, "changed", Sets("args", **OTHERS))

    told = {name: caplog.text.count(f"args.{name} was changed within the run, from") for name in READ_AT_START}
    assert told == dict.fromkeys(READ_AT_START, 1)
    assert [name for name in READ_AT_START if f"or set state.{name} for this one" in caplog.text] == list(OF_STATE)
    assert (trainer_factory.weights(changed) == trainer_factory.weights(plain)).all()
    assert records(changed) == records(plain)
    assert trainer_factory.checkpoints("changed") == trainer_factory.checkpoints("plain")


@pytest.mark.parametrize("name", OF_STATE)
def test_the_steps_of_the_state_count_at_once(
    trainer_factory: Any, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = trained(trainer_factory, "plain")
    changed = trained(trainer_factory, "changed", Sets("state", **{name: OTHERS[name]}))

    found = [
        (records(each), trainer_factory.checkpoints(folder))
        for each, folder in ((plain, "plain"), (changed, "changed"))
    ]
    assert found[0] != found[1]
    assert "within the run" not in caplog.text
