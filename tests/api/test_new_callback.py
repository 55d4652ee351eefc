from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from trackside.callbacks.errors import ConfigError
from trackside.new_callback import main, write_package

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plugin_package"


def run(*command, cwd, path=()):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *(item for item in sys.path if item)])}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_writes_a_complete_package(tmp_path, capsys):
    code = main(["grad_spikes"])

    assert code == 0
    assert "pip install '.[test]', pytest" in capsys.readouterr().out
    found = {str(path.relative_to("trackside-grad-spikes")) for path in Path("trackside-grad-spikes").rglob("*.*")}
    assert found == {
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "trackside_grad_spikes/__init__.py",
        "trackside_grad_spikes/callback.py",
        "tests/test_grad_spikes.py",
    }
    assert "grad_spikes = trackside_grad_spikes.callback:GradSpikesCallback" in Path(
        "trackside-grad-spikes/setup.cfg"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Slack", "2fast", "a-b", "class", ""])
def test_a_name_that_cannot_be_one_is_an_error(name, tmp_path):
    with pytest.raises(ConfigError, match="lower-case letters"):
        write_package(name, tmp_path / "new")


def test_a_name_that_is_taken_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"NAME='csv' is taken: trackside .* gives it to trackside.callbacks.csv_log"):
        write_package("csv", tmp_path / "new")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.py").touch()

    with pytest.raises(ConfigError, match="is not empty"):
        write_package("slack", tmp_path)


@pytest.mark.slow
def test_the_tests_of_a_new_package_pass(tmp_path):
    write_package("grad_spikes", tmp_path / "new")

    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path / "new", path=["."])


@pytest.mark.slow
def test_the_example_package_is_used_by_name_once_it_is_installed(tmp_path):
    wheels, folder = tmp_path / "wheels", tmp_path / "environment"
    source = tmp_path / "source"
    run("cp", "-r", EXAMPLE, source, cwd=tmp_path)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, source, cwd="/")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, *wheels.iterdir(), cwd="/")
    code = """
from trackside.callbacks import registry
from trackside.testing import installed_frameworks, tiny_trainer
print(registry.find("weight_norms").origin)
for framework in installed_frameworks():
    trainer = tiny_trainer(framework, framework, callbacks=[], **{"max_steps": 2})
    from trackside.callbacks.build import attach_from_map
    attach_from_map(trainer.dispatcher, {"weight_norms": {"each": True}})
    trainer.train()
    print(framework, "weight_norm" in trainer.state.log_history[0])
"""
    printed = run(folder / "bin" / "python", "-c", code, cwd=tmp_path, path=[site])

    assert "trackside-weight-norms 0.1.0, trackside_weight_norms.callback:WeightNormsCallback" in printed
    assert "False" not in printed
    assert "True" in printed
