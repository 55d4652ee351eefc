"""Whatever becomes of a checkpoint: it is refused in a sentence, or what is loaded has the right bits."""

from __future__ import annotations

import random
import shutil
import time

import numpy as np
import pytest
from support.damages import damaged_at_random

from trackside.callbacks.errors import CheckpointError

DAMAGES = 200  # on each trainer
SAVES = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2, "learning_rate": 0.1}


def forget(factory, trainer):
    """Give the model other weights, so that a load which loads nothing is seen."""
    if factory.framework == "pytorch":
        for parameter in trainer.model.parameters():
            parameter.data.zero_()
    else:
        trainer.model.set_weights([np.zeros_like(value) for value in trainer.model.get_weights()])


@pytest.mark.slow
def test_no_damage_ends_in_a_traceback_a_wrong_load_or_a_wait(trainer_factory, tmp_path):
    whole = trainer_factory(**SAVES)
    whole.train()
    original, right = trainer_factory.folder / "out" / "checkpoint-2", trainer_factory.weights(whole)
    trainer = trainer_factory(**{**SAVES, "output_dir": str(tmp_path / "other")})
    outcomes = []
    for seed in range(DAMAGES):
        folder = shutil.copytree(original, tmp_path / str(seed) / "checkpoint-2")
        what = damaged_at_random(folder, random.Random(seed))
        forget(trainer_factory, trainer)
        began = time.monotonic()
        try:
            trainer.train(folder)
        except CheckpointError:
            outcomes.append("refused")
        except BaseException as error:
            raise AssertionError(f"damage {seed} ({what}) ended in {error!r}") from error
        else:
            outcomes.append("loaded")
            assert trainer.state.global_step == 2, (seed, what)
            np.testing.assert_array_equal(trainer_factory.weights(trainer), right, err_msg=f"damage {seed} ({what})")
        assert time.monotonic() - began < 60, (seed, what)
        shutil.rmtree(folder.parent)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
    assert outcomes.count("refused") > DAMAGES // 2
    assert outcomes.count("loaded") > 3
