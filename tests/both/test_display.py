"""What a trainer shows of itself."""

from __future__ import annotations

from trackside import TerminateOnNaNCallback
from trackside.callbacks.bus.report import CallbackReport


def test_a_trainer_shows_its_model_its_folder_and_how_far_it_has_come(trainer_factory, monkeypatch):
    monkeypatch.chdir(trainer_factory.folder)
    trainer = trainer_factory(max_steps=4, output_dir="out", callbacks=[TerminateOnNaNCallback()])
    before = repr(trainer)

    trainer.train()

    name, model = type(trainer).__name__, type(trainer.model).__name__
    assert before == f"<{name} of {model} in 'out': not trained yet, 1 callback>"
    assert repr(trainer) == before.replace("not trained yet", "step 4 of 4")
    assert repr(type(trainer).__new__(type(trainer))) == f"<{name}>"


def test_the_report_and_the_summary_of_a_trainer_show_themselves(trainer_factory):
    trainer = trainer_factory(max_steps=2, logging_steps=1, callbacks=[TerminateOnNaNCallback()])
    trainer.train()

    report, summary = trainer.callback_report, trainer.model_summary()

    assert type(report) is CallbackReport
    assert report["terminate_on_nan"].calls == 3
    assert str(report).splitlines()[1].split()[:3] == ["terminate_on_nan", "control", "3"]
    assert repr(summary) == str(summary)
    assert summary._repr_html_().startswith("<pre>")
