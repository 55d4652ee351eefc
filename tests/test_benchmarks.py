"""Benchmarks run to their end on a toy; that for a GPU also without one, so that it is ready where there is one."""

from __future__ import annotations

import json
import os
import runpy
from pathlib import Path

import pytest
from support.fork_process import Fork

pytest.importorskip("torch")

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def run(*options: str, name: str = "gpu.py", framework: str = "torch") -> Fork:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = Fork(framework, [str(BENCHMARKS / name), *options], Path.cwd(), environment)
    process.wait(240)
    return process


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_runs_a_toy_on_the_cpu():
    small = ("--steps", "2", "--warmup", "1", "--rounds", "2", "--batch", "2", "--peak-tflops", "0.001")

    ended = run("--tiny", "--device", "cpu", *small)

    assert ended.returncode == 0, ended.errors
    rows = {line[:22].strip(): line[22:].split() for line in ended.output.splitlines() if "%" in line}
    assert {"hand-written", "Trainer"} <= set(rows)
    for tokens_per_s, mfu, *_ in rows.values():
        # this toy needs 189,696 operations a token, and 1e9 a second are the peak
        assert float(mfu.rstrip("%")) == pytest.approx(float(tokens_per_s.replace(",", "")) * 189_696 / 1e7, abs=0.2)


def test_the_benchmark_says_that_there_is_no_gpu():
    ended = run()

    assert ended.returncode == 2
    assert "torch finds no GPU that it can use; to see that this runs: --tiny --device cpu" in ended.errors


def test_the_model_of_the_benchmark_has_the_size_of_gpt2():
    import torch

    module = runpy.run_path(str(BENCHMARKS / "gpt.py"))
    with torch.device("meta"):
        model = module["GPT"](module["Shape"]())

    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights == 124_475_904  # GPT-2's 124,439,808 and 47 rows of padding in the vocabulary
    assert module["flops_per_token"](model) == 6 * (weights - 1024 * 768) + 12 * 12 * 768 * 1024


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000 Laptop GPU", None),
    ],
)
def test_the_peak_of_a_gpu_is_not_taken_for_that_of_another(name, tflops, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # as if it were started as a script

    peak = runpy.run_path(str(BENCHMARKS / "gpu.py"))["peak_of"](name)

    assert peak == (tflops and tflops * 1e12)


@pytest.mark.parametrize("framework", ["torch", pytest.param("tf", marks=pytest.mark.slow)])
def test_the_benchmark_of_saves_measures_a_toy(framework, tmp_path):
    if framework == "tf":
        pytest.importorskip("tensorflow")
    (folder := tmp_path / "saves").mkdir()
    small = ("--parameters", "12000", "--layers", "3", "--rounds", "2", "--folder", str(folder))

    forked = {"tf": "tensorflow"}.get(framework, framework)
    ended = run("--framework", framework, *small, name="checkpoint.py", framework=forked)

    assert ended.returncode == 0, ended.errors
    rows = {line[:40].strip(): line[40:].split() for line in ended.output.splitlines() if len(line) > 60}
    base = float(rows["blocking torch.save"][0])
    for name in ("first save of a run", "save after a pause", "save at a spacing of its write time"):
        median, lowest, highest, ratio, _ = map(float, rows[name])
        assert 0 <= lowest <= median <= highest
        assert ratio == pytest.approx(median / base, rel=0.6, abs=0.6)  # both are shown to a thousandth of a second
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_the_benchmark_of_a_step_on_tensorflow_measures_a_toy():
    pytest.importorskip("tensorflow")

    ended = run("--steps", "20", "--rounds", "2", "--rows", "600", name="step_tf.py", framework="tensorflow")

    assert ended.returncode == 0, ended.errors
    rows = [line for line in ended.output.splitlines() if line.startswith(("hand-written", "Model.", "TFTrainer"))]
    assert len(rows) == 5 * 4  # four ways to call and to log, and a prediction
    assert all(float(row[40:].split()[0]) > 0 for row in rows)


@pytest.mark.slow
def test_a_row_is_measured_and_kept(tmp_path):
    words = ("--quick", "--rounds", "2", "--one", "step-accumulation", "--out", str(tmp_path))

    ended = run(*words, name="all.py")

    assert ended.returncode == 0, ended.errors
    result = json.loads((tmp_path / "step-accumulation.json").read_text(encoding="utf-8"))
    assert {"hand-written loop", "Trainer", "transformers", "Lightning"} <= set(result["costs"])
    assert {len(costs) for costs in result["costs"].values()} == {2}
    assert min(cost for costs in result["costs"].values() for turn in costs for cost in turn) > 0


def test_the_page_of_the_results_is_written_between_its_marks(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import harness
    import page

    costs = {name: [(clock, 2 * clock)] * 3 for name, clock in (("hand-written loop", 2.0), ("Trainer", 1.5))}
    harness.Result("step", "a step", "us", "hand-written loop", costs, load=[0.1, 1.2]).save(tmp_path / "step.json")
    harness.Result("import", "import", "s", "", {"Trainer": [(1.0, 1.0)] * 3}, load=[0.1, 0.1], date="2020-02-02").save(
        tmp_path / "import.json"
    )
    file = tmp_path / "explanation" / "performance.md"
    file.parent.mkdir()
    real = (BENCHMARKS.parent / "docs" / page.PAGE).read_text(encoding="utf-8")
    file.write_text(real, encoding="utf-8")

    page.write(tmp_path, tmp_path)
    page.write(tmp_path, tmp_path)

    text = file.read_text(encoding="utf-8")
    assert text.startswith(real.partition(page.BEGIN)[0])
    assert text.endswith(real.partition(page.END)[2])
    assert "| a step | 0.75 (0.75) |" in text
    assert "| Trainer | 1.5 | 1.5 to 1.5 | 0.75 |" in text
    assert text.count("\n\nMeasured on 2020-02-02:\n\n| import |") == 1
    assert text.count("Measured on") == 1
    assert (tmp_path / page.PICTURE).stat().st_size > 5_000


@pytest.mark.slow
def test_growth_is_measured_and_its_page_written(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import growth_page

    ended = run("--quick", "--one", "growth", "--out", str(tmp_path), name="all.py")

    assert ended.returncode == 0, ended.errors
    found = json.loads((tmp_path / "growth.json").read_text(encoding="utf-8"))
    page = tmp_path / growth_page.PAGE
    page.parent.mkdir()
    page.write_text((BENCHMARKS.parent / "docs" / growth_page.PAGE).read_text(encoding="utf-8"), encoding="utf-8")
    growth_page.write(found, tmp_path)

    assert abs(found["curves"]["a record, by those before"]["exponent"]) < 0.02
    update = found["ranks"]["2"]["exchanged"]["an update"]
    assert update.pop("bucket of gradients bytes") == 4 * (64 * 64 + 64 + 64 * 10 + 10 + 7)  # and 7 numbers
    assert update == {"examples read": 4, "bucket of gradients": 1}
    assert "| a control callback at a step | 1, 96 |" in page.read_text(encoding="utf-8")
    assert (tmp_path / growth_page.PICTURE).stat().st_size > 5_000


def test_the_benchmark_of_prediction_measures_a_toy():
    ended = run("--rows", "300", "--outputs", "3", "--batch", "16", "--rounds", "2", name="predict.py")

    assert ended.returncode == 0, ended.errors
    rows = [line.split(" | ") for line in ended.output.splitlines() if line.startswith(("| hand", "| Trainer"))]
    assert len(rows) == 4 + 5
    assert all(float(row[1]) >= 0 for row in rows)
    assert all(row[3].startswith("1.000 (1.00)") for row in (rows[1], rows[5]))


def test_the_benchmark_of_callbacks_shows_that_inert_ones_cost_nothing():
    ended = run("--callbacks", "20", "--steps", "200", "--rounds", "5", name="callbacks.py")

    assert ended.returncode == 0, ended.errors
    rows = [[part.strip() for part in line.strip("| ").split("|")] for line in ended.output.splitlines()[2:]]
    per_callback = {name: float(value) for name, _, value in rows}
    assert abs(per_callback["20 that do not hear a step"]) < 0.05
    assert per_callback["20 that hear on_step_end"] > per_callback["20 that hear every tenth on_step_end"] > 0


@pytest.mark.parametrize("framework", ["torch", pytest.param("tf", marks=pytest.mark.slow)])
def test_the_benchmark_of_resuming_measures_a_toy(framework):
    if framework == "tf":
        pytest.importorskip("tensorflow")
    small = ("--examples", "3200", "--step", "20", "--rounds", "2")

    forked = {"tf": "tensorflow"}.get(framework, framework)
    ended = run("--framework", framework, *small, name="resume.py", framework=forked)

    assert ended.returncode == 0, ended.errors
    assert "resuming at step 20 of 100" in ended.output
    rows = [line.split(" | ") for line in ended.output.splitlines() if line.startswith(("| hand", "| T"))]
    assert len(rows) == 2
    assert all(float(row[1]) > 0 for row in rows)


def test_the_benchmark_of_loading_measures_a_toy():
    ended = run("--examples", "320", "--rounds", "2", name="data.py")

    assert ended.returncode == 0, ended.errors
    rows = [
        line.split(" | ") for line in ended.output.splitlines() if ", plain DataLoader" in line or ", Trainer" in line
    ]
    assert len(rows) in (4, 6)  # with datasets, where it is installed
    assert all(float(row[1]) > 0 for row in rows)
