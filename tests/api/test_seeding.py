from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from trackside.seeding import set_seed


def test_the_same_seed_gives_the_same_numbers_in_python_numpy_and_torch():
    torch = pytest.importorskip("torch")

    def draw() -> tuple[float, float, float]:
        set_seed(7)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw() == draw()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("framework", "draw"), [("torch", "torch.rand(()).item()"), ("tensorflow", "float(tensorflow.random.uniform(()))")]
)
def test_a_framework_that_is_loaded_is_seeded_and_the_other_is_not_loaded(framework, draw):
    pytest.importorskip(framework)
    code = (
        f"import os, sys, {framework}\n"
        "from trackside import set_seed\n"
        "os.fork() == 0 or os.wait()\n"  # in two processes, one after the other
        "set_seed(3)\n"
        f"print({draw}, [name for name in ('torch', 'tensorflow') if name in sys.modules], flush=True)\n"
        "os._exit(0)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    first, second = done.stdout.splitlines()
    assert first == second
    assert first.endswith(f"['{framework}']")


def test_where_no_framework_is_loaded_yet_an_installed_one_is_loaded_and_seeded():
    pytest.importorskip("torch")
    code = "from trackside import set_seed; set_seed(3); import torch; print(torch.initial_seed())"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "3"
