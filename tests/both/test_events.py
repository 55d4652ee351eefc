"""Both trainers send the same events, at the same steps, for the same schedule."""

from __future__ import annotations

from typing import Any

import pytest
from support.event_drawing import Schedule, drawn_events

from trackside import EarlyStoppingCallback, events


def pairs() -> Any:
    return events.EVENTS.items()


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_a_run_sends_the_events_that_the_docstring_draws(trainer_factory, accumulation):
    windows = [accumulation] * (5 // accumulation) + [5 % accumulation] * (5 % accumulation > 0)
    total = 2 * len(windows)
    seen: list[str] = []
    connected = [(signal, (lambda trainer, name=name, **_: seen.append(name))) for name, signal in pairs()]
    for signal, listener in connected:
        signal.connect(listener)

    trainer_factory(
        num_train_epochs=2,
        gradient_accumulation_steps=accumulation,
        logging_steps=2,
        save_strategy="steps",
        save_steps=3,
        eval_strategy="epoch",
        eval_dataset=trainer_factory.dataset(10),
        eval_on_start=True,
    ).train()

    for signal, listener in connected:
        signal.disconnect(listener)
    assert seen == drawn_events(
        Schedule(
            windows=windows,
            epochs=2,
            evaluation_batches=2,
            logs_at=set(range(2, total + 1, 2)),
            saves_at={*range(3, total + 1, 3), total},
            evaluates_at_epoch_end=True,
            evaluates_on_start=True,
        )
    )


SCHEDULES = {
    "everything by steps": {
        "logging_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "save_strategy": "steps",
        "save_steps": 5,
        "max_steps": 11,
    },
    "everything by epochs, a ragged end": {
        "logging_strategy": "epoch",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1.5,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    },
    "stopped early": {
        "learning_rate": 0.0,
        "eval_strategy": "epoch",
        "eval_delay": 1,
        "num_train_epochs": 9,
        "metric_for_best_model": "loss",
        "callbacks": [EarlyStoppingCallback(2)],
    },
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_both_trainers_send_the_same_events_at_the_same_steps(both_factories, name):
    sequences = []
    for factory in both_factories:
        trainer = factory(
            train_dataset=factory.dataset(37),
            eval_dataset=factory.dataset(9),
            logging_first_step=True,
            **SCHEDULES[name],
        )
        sent: list[Any] = []
        for event in events.EVENTS:
            trainer.on(event)(
                lambda sender, state, to=sent, event=event, **rest: to.append((event, state.global_step, state.epoch))
            )
        trainer.train()
        sequences.append(sent)

    assert sequences[0] == sequences[1]
    assert {"on_log", "on_evaluate", "on_train_end"} <= {event for event, _, _ in sequences[0]}
