from __future__ import annotations

import math

import pytest
from trackside_weight_norms import WeightNormsCallback

from trackside.testing import check_callback, installed_frameworks, tiny_trainer, weights_of


def test_it_is_a_good_callback():
    check_callback(WeightNormsCallback)


@pytest.mark.parametrize("framework", installed_frameworks())
def test_the_last_record_holds_the_norm_of_the_weights(framework, tmp_path):
    trainer = tiny_trainer(framework, tmp_path, [WeightNormsCallback(each=True)])

    trainer.train()

    (*_, last) = (record for record in trainer.state.log_history if "weight_norm" in record)
    squares = sum(float((weight.astype("float64") ** 2).sum()) for weight in weights_of(trainer))
    assert math.isclose(last["weight_norm"], math.sqrt(squares), rel_tol=1e-6)
    assert sum(name.startswith("weight_norm/") for name in last) == 4
