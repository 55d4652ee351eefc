"""Installed packages with callbacks, as the command sees them: loaded when named, and harmless when broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trackside.testing.tiny_trainer import installed_frameworks

GOOD = """
from pathlib import Path
from trackside import TrainerCallback

Path("imported").touch()

class Slack(TrainerCallback):
    role = "observer"

    def __init__(self, channel: str = "#runs") -> None:
        self.channel = channel

    def on_log(self, args, state, control, **kwargs) -> None: ...

def Net(): ...
"""

TRACKERS = "from trackside.trainer.callback_setup import trackers; print(trackers('all'))"

PACKAGES = {
    "good": ("2.5", GOOD, {"slack": "Slack"}),
    "broken": ("0.3", "import no_such_module", {"broken": "Broken"}),
    "leaving": ("0.4", "import sys; sys.exit('no')", {"leaving": "Leaving"}),
    "far": ("0.1", "1 / 0", {"elsewhere": "x.integrations.y"}),
    "one": ("1.0", GOOD, {"both": "Slack"}),
    "two": ("2.0", GOOD, {"both": "Slack"}),
}


@pytest.fixture
def command(tmp_path):
    """Run the command where all `PACKAGES` are installed, as pip would leave them."""
    site = tmp_path / "site"
    for name, (version, source, callbacks) in PACKAGES.items():
        package, metadata = f"ts_{name}", site / f"ts_{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ts-{name}\nVersion: {version}\n")
        lines = [f"{callback} = {package}:{cls}\n" for callback, cls in callbacks.items()]
        (metadata / "entry_points.txt").write_text(f"[trackside.callbacks]\n{''.join(lines)}")
        (site / f"{package}.py").write_text(source)
    components = "[trackside.components]\nnet = ts_good:Net\n"
    with (site / "ts_good-2.5.dist-info" / "entry_points.txt").open("a") as file:
        file.write(components)
    path = os.pathsep.join([str(site), *(item for item in sys.path if item)])

    def run(*arguments, start=("-m", "trackside")):
        return subprocess.run(
            [sys.executable, *start, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def plan_of(text):
    framework = installed_frameworks()[0]
    Path("run.yaml").write_text(f"framework: {framework}\ncallbacks: {text}\n")
    return "plan", "run.yaml"


def test_a_plugin_is_loaded_when_it_is_named_and_only_then(command):
    without = command(*plan_of("{csv: }"))
    was_imported = Path("imported").exists()
    named = command(*plan_of("{slack: {channel: '#nlp'}}"))

    assert (without.returncode, was_imported) == (0, False), without.stderr
    assert (named.returncode, Path("imported").exists()) == (0, True), named.stderr
    (line,) = [line for line in named.stdout.splitlines() if line.startswith("  slack ")]
    assert "ts_good.Slack" in line
    assert line.endswith("run.yaml:2, ts-good 2.5")
    assert "channel='#nlp'" in line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "broken",
            "of ts-broken 0.3, ts_broken:Broken cannot be imported: ModuleNotFoundError: No module named 'no_such",
        ),
        ("leaving", "of ts-leaving 0.4, ts_leaving:Leaving cannot be imported: SystemExit: no"),
    ],
)
def test_one_that_fails_to_import_is_told_with_its_package_and_version(command, name, expected):
    done = command(*plan_of(f"{{{name}: }}"))

    assert done.returncode == 2
    assert done.stderr.startswith(f"trackside: error: run.yaml:2: callbacks.{name}: the callback '{name}' {expected}")
    assert done.stderr.count("\n") == 1


def test_two_packages_that_claim_one_name_are_both_told(command):
    done = command(*plan_of("{both: }"))
    chosen = command(*plan_of("{both: {class_path: ts_two.Slack}}"))

    assert done.returncode == 2
    assert "run.yaml:2: callbacks.both: the callback 'both' is claimed by " in done.stderr
    assert "ts-one 1.0, ts_one:Slack" in done.stderr
    assert "ts-two 2.0, ts_two:Slack" in done.stderr
    assert "class_path ts_two.Slack" in chosen.stdout


def test_either_of_two_packages_with_one_name_is_reached_by_its_full_name(command):
    plan = command(*plan_of("{'ts-two:both': {channel: x}, 'TS_one:both': }"))
    unknown = command(*plan_of("{'ts-three:both': }"))

    assert plan.returncode == 0, plan.stderr
    assert ["ts_two.Slack" in line for line in plan.stdout.splitlines() if "ts-two:both" in line] == [True]
    assert ["ts_one.Slack" in line for line in plan.stdout.splitlines() if "TS_one:both" in line] == [True]
    assert "available: ts-one:both, ts-two:both" in unknown.stderr


def test_the_command_tells_origin_options_and_documentation_of_one(command):
    one, both, unknown = command("callbacks", "slack"), command("callbacks", "both"), command("callbacks", "slak")

    assert one.returncode == 0, one.stderr
    for expected in ("ts-good 2.5", "ts_good.Slack", "ts_good.py:7", "observer", "channel: str = '#runs'"):
        assert expected in one.stdout
    assert both.stdout.index("ts-one:both") < both.stdout.index("ts-two:both")
    assert (unknown.returncode, "Did you mean 'slack'?" in unknown.stderr) == (2, True)


def test_registered_only_builds_what_a_package_registers_as_a_component(command):
    arguments = ("--registered-only", "--train_data", "ts_good.Slack")
    plan_of("{}")
    Path("run.yaml").write_text(Path("run.yaml").read_text() + "model: ts_good.Net\n")

    done = command("train", "run.yaml", *arguments)

    assert done.returncode == 2
    assert (
        "command line: train_data.class_path='ts_good.Slack': only registered classes are imported here" in done.stderr
    )


def test_report_to_all_asks_for_no_tracker_of_another_package(command):
    done = command(start=("-c", TRACKERS))

    assert done.returncode == 0, done.stderr
    assert "'elsewhere'" not in done.stdout


def test_the_listing_and_the_schema_tell_of_all_and_stumble_over_none(command):
    listing, schema = command("callbacks"), command("schema")

    assert listing.returncode == 0, listing.stderr
    lines = {tuple(line.split(maxsplit=3)[:3]): line for line in listing.stdout.splitlines()}
    assert "channel: str = '#runs'" in lines["slack", "ts-good", "2.5"]
    assert "cannot be imported: ModuleNotFoundError" in lines["broken", "ts-broken", "0.3"]
    assert "cannot be imported: SystemExit" in lines["leaving", "ts-leaving", "0.4"]
    assert "claimed by 2 packages: ts_one:Slack" in lines["both", "ts-one", "1.0"]
    assert "claimed by 2 packages: ts_two:Slack" in lines["both", "ts-two", "2.0"]
    callbacks = json.loads(schema.stdout)["properties"]["callbacks"]["properties"]
    assert "channel" in callbacks["slack"]["anyOf"][0]["properties"]
    assert {"broken", "leaving", "both", "early_stopping"} <= set(callbacks)
