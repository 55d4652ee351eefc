"""Training through torch_xla itself, where one is installed that fits torch: on its CPU device, and with one core.

In the environment that constraints.txt describes there is none (the last torch_xla is made for torch 2.9), and this is
skipped; docs/explanation/tpu.md says how to run it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from workers import xla_worker

from trackside.trainer.pytorch.availability import why_no_xla

pytestmark = [pytest.mark.skipif(why_no_xla() is not None, reason=str(why_no_xla())), pytest.mark.slow]

SCRIPT = Path(xla_worker.__file__)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder of the runs on torch_xla, what they found, and what the same runs on torch's own CPU device did."""
    folder = tmp_path_factory.mktemp("xla")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder / "xla"],
        env={**os.environ, "PJRT_DEVICE": "CPU"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "xla" / "found.json").read_text())
    return folder / "xla", found, xla_worker.main(folder / "cpu", no_cuda=True)


@pytest.mark.parametrize("name", ["accumulation 1", "accumulation 3", "tied", "own optimizer", "from the cpu"])
def test_a_run_on_torch_xla_gives_the_weights_and_records_of_one_on_the_cpu(name: str, runs: Any) -> None:
    _, on_xla, on_cpu = runs

    assert (on_xla[name]["device"], on_cpu[name]["device"]) == ("xla", "cpu")
    for part in ("weights", "losses", "norms"):
        assert on_xla[name][part] == pytest.approx(on_cpu[name][part], abs=1e-5), part


def test_evaluation_gives_the_same_metrics(runs: Any) -> None:
    _, on_xla, on_cpu = runs

    for name in ("evaluation 1", "evaluation 3"):
        assert on_xla[name] == pytest.approx(on_cpu[name], abs=1e-5)


def test_bf16_autocast_trains_nearly_the_same(runs: Any) -> None:
    _, on_xla, on_cpu = runs

    assert on_xla["bf16"]["losses"] == pytest.approx(on_cpu["bf16"]["losses"], abs=1e-2)
    assert on_xla["bf16"]["losses"] != on_xla["accumulation 1"]["losses"]


def test_a_resumed_run_with_dropout_ends_bitwise_as_the_uncut_one(runs: Any) -> None:
    _, on_xla, on_cpu = runs

    assert on_xla["resumed"]["weights"] == on_xla["whole"]["weights"]
    assert on_xla["whole"]["weights"] != pytest.approx(on_cpu["whole"]["weights"], abs=1e-3)  # other random numbers


def test_tied_weights_are_written_once_and_on_the_host(runs: Any) -> None:
    folder = runs[0]

    for place in ("whole/checkpoint-3", "final"):
        weights = load_file(folder / place / "model.safetensors")
        assert len({"embedding.weight", "head.weight"} & weights.keys()) == 1
        assert {tensor.device.type for tensor in weights.values()} == {"cpu"}


def test_an_update_is_launched_once_and_never_waits_for_the_device(runs: Any) -> None:
    found = runs[1]["launches"]

    assert found["steps"] == 20
    assert found["compilations"] <= 2  # the first updates, of which one makes the optimizer's state
    assert found["reads"] == 0
