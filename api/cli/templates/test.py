from __future__ import annotations

from pathlib import Path

from trackside_callback_name import CallbackNameCallback

from trackside.testing import check_callback, installed_frameworks, tiny_trainer


def test_it_is_a_good_callback() -> None:
    check_callback(CallbackNameCallback)


def test_it_counts_records(tmp_path: Path) -> None:
    for framework in installed_frameworks():
        callback = CallbackNameCallback(start=5)
        trainer = tiny_trainer(framework, tmp_path / framework, [callback])

        trainer.train()

        assert callback.records == 5 + len(trainer.state.log_history)
