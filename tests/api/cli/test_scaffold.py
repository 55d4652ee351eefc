from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from trackside.callbacks.errors import ConfigError
from trackside.cli.scaffold import main, write_package
from trackside.testing.tiny_trainer import installed_frameworks

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "plugin_package"


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
    taken = r"NAME='csv' is taken: trackside .* gives it to trackside.callbacks.builtin.csv_log"
    with pytest.raises(ConfigError, match=taken):
        write_package("csv", tmp_path / "new")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.py").touch()

    with pytest.raises(ConfigError, match="is not empty"):
        write_package("slack", tmp_path)


# -- packages in an environment of their own ---------------------------------------------------------------------------

PARTS = {
    "pytorch": """\
import torch

def model():
    return torch.nn.Linear(4, 3)

def data():
    return torch.utils.data.TensorDataset(torch.randn(24, 4), torch.arange(24) % 3)
""",
    "tensorflow": """\
import keras
import numpy

def model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])

def data():
    return numpy.random.default_rng(0).normal(size=(24, 4)).astype("float32"), numpy.arange(24) % 3
""",
}

LOSSES = {
    "pytorch": "torch.nn.CrossEntropyLoss",
    "tensorflow": "{class_path: keras.losses.SparseCategoricalCrossentropy, init_args: {from_logits: true}}",
}

RUN = """\
framework: {framework}
model: parts.model
train_data: parts.data
loss_fn: {loss}
args: {{output_dir: out, max_steps: 4, logging_steps: 2, save_strategy: "no"}}
callbacks:
  weight_norms: {{each: true}}
"""


# in one process, which imports its framework once
PLAN_AND_TRAIN = """\
import sys
from trackside.cli.main import main
print("PLANNED:", main(["plan", "run.yaml"]), flush=True)
sys.exit(main(["train", "run.yaml"]))
"""


class Environment:
    """A fresh virtual environment, into which packages are installed; what they need is the parent's."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        parents = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
        (next(folder.glob("lib/python*/site-packages")) / "parent.pth").write_text(f"import site; {parents}\n")

    def install(self, source, *options):
        """Install a copy of the folder ``source``, with options of pip before its path."""
        copy = self.python.parents[1] / "source" / source.name
        shutil.copytree(source, copy)
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "-q", "--no-deps"]
        subprocess.run([*pip, "--no-build-isolation", *options, str(copy)], check=True, timeout=120)
        return copy

    def run(self, *arguments, cwd=None):
        return self._run("-m", *map(str, arguments), cwd=cwd)

    def run_code(self, code):
        return self._run("-c", code)

    def _run(self, *arguments, cwd=None):
        command = [str(self.python), *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)


def write_run(folder, framework):
    """Write a configuration that names the callback of the example."""
    (folder / "parts.py").write_text(PARTS[framework])
    (folder / "run.yaml").write_text(RUN.format(framework=framework, loss=LOSSES[framework]))


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment in which the example is installed."""
    environment = Environment(tmp_path_factory.mktemp("environment"))
    folder = tmp_path_factory.mktemp("before")
    for framework in installed_frameworks():
        write_run(folder, framework)
        before = environment.run("trackside", "plan", "run.yaml", cwd=folder)
        assert before.returncode == 2
        assert "run.yaml:7: callbacks.weight_norms: no callback named 'weight_norms'" in before.stderr
    environment.install(EXAMPLE)
    return environment


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["pytorch", "tensorflow"])
def test_the_example_package_is_used_by_name_from_a_config_once_it_is_installed(framework, environment, tmp_path):
    if framework not in installed_frameworks():
        pytest.skip(f"{framework} is not installed")
    write_run(tmp_path, framework)

    trained = environment.run_code(PLAN_AND_TRAIN)

    plan, _, _ = trained.stdout.partition("PLANNED: 0\n")
    (line,) = [line for line in plan.splitlines() if line.startswith("  weight_norms ")]
    assert "trackside_weight_norms.callback.WeightNormsCallback" in line
    assert line.endswith("run.yaml:7, trackside-weight-norms 0.1.0")
    assert trained.returncode == 0, trained.stderr
    history = json.loads(Path("out/trainer_state.json").read_text())["log_history"]
    norms = [record["weight_norm"] for record in history if "loss" in record]
    assert len(norms) == 2
    assert all(norm > 0 for norm in norms)
    assert sum(name.startswith("weight_norm/") for name in history[0]) == 2


@pytest.mark.slow
def test_the_tests_of_the_example_and_of_a_new_package_pass_where_they_are_installed(environment, tmp_path):
    write_package("grad_spikes", tmp_path / "new")
    environment.install(tmp_path / "new")

    done = environment.run("pytest", "-q", "-p", "no:cacheprovider", EXAMPLE / "tests", tmp_path / "new" / "tests")
    listed = environment.run("trackside", "callbacks")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{3 + len(installed_frameworks())} passed" in done.stdout
    lines = [" ".join(line.split()) for line in listed.stdout.splitlines()]
    assert "grad_spikes trackside-grad-spikes 0.1.0 start: int = 0" in lines
    assert "weight_norms trackside-weight-norms 0.1.0 each: bool = False" in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "options", "link"),
    [
        ("flat", ["-e"], "__editable___trackside_weight_norms_0_1_0_finder.py"),
        ("strict", ["--config-settings", "editable_mode=strict", "-e"], "build/__editable__"),
        ("src", ["-e"], "/src\n"),
    ],
)
def test_an_editable_install_of_a_package_shows_its_callback(layout, options, link, tmp_path):
    environment, source = Environment(tmp_path / "environment"), tmp_path / layout
    shutil.copytree(EXAMPLE, source)
    if layout == "src":
        (source / "src").mkdir()
        (source / "trackside_weight_norms").rename(source / "src" / "trackside_weight_norms")
        config = (source / "setup.cfg").read_text()
        (source / "setup.cfg").write_text(config.replace("[options]\n", "[options]\npackage_dir =\n    = src\n"))
    copy = environment.install(source, *options)
    (site_packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    links = [f"{path.name}\n{path.read_text()}\n" for path in site_packages.glob("__editable__*")]

    shown = environment.run("trackside", "callbacks", "weight_norms", cwd=copy)  # where *.egg-info may be, too

    assert link in "".join(links)
    assert shown.returncode == 0, shown.stderr
    (file,) = [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("  file ")]
    assert Path(file.rpartition(":")[0]).resolve().is_relative_to(copy.resolve())
    for expected in ("trackside-weight-norms 0.1.0", "each: bool = False", "the L2 norm of all weights together"):
        assert expected in shown.stdout
