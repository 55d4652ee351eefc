from __future__ import annotations

import sys

import pytest

from trackside.callbacks import registry
from trackside.callbacks.errors import CallbackError, UnknownNameError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a throwaway package with callbacks, as pip would leave it."""

    def install_package(package, version="1.0", *, source="", **names):
        folder = tmp_path / f"site-{package}"
        metadata = folder / f"{package}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = "\n".join(f"{name} = {value}" for name, value in names.items())
        (metadata / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{lines}\n")
        (folder / f"{package}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)

    yield install_package
    for name in [name for name in sys.modules if name.startswith("ts_")]:
        del sys.modules[name]


SOURCE = """
from trackside import TrainerCallback

class Slack(TrainerCallback):
    def __init__(self, channel: str, every: int = 10, *, quiet: "bool" = False, untyped=None):
        self.channel, self.every = channel, every

    def on_log(self, args, state, control, **kwargs): ...
"""


def test_a_package_gives_a_name_to_its_callback(install):
    install("ts_slack", "2.5", source=SOURCE, slack="ts_slack:Slack")

    registration = registry.registered()["slack"]

    assert (registration.package, registration.version, registration.value) == ("ts_slack", "2.5", "ts_slack:Slack")
    assert registration.origin == "ts_slack 2.5, ts_slack:Slack"
    assert registry.load("slack").__name__ == "Slack"


def test_nothing_is_imported_until_it_is_named(install):
    install("ts_slack", source=SOURCE, slack="ts_slack:Slack")

    registry.registered()

    assert "ts_slack" not in sys.modules


def test_an_unknown_name_names_the_nearest(install):
    install("ts_slack", source=SOURCE, slack="ts_slack:Slack")

    with pytest.raises(UnknownNameError, match=r"no callback named 'slak'; available: .*slack.*Did you mean 'slack'\?"):
        registry.load("slak")


@pytest.mark.parametrize(
    ("source", "value", "cause"),
    [
        ("1 / 0", "ts_bad:Bad", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "ts_bad:Bad", "SystemExit: 3"),
        ("import no_such_module", "ts_bad:Bad", "No module named 'no_such_module'"),
        ("", "ts_bad:Bad", "has no attribute 'Bad'"),
        ("Bad = 3", "ts_bad:Bad", "is not a class but 3"),
    ],
)
def test_one_that_cannot_be_imported_is_told_with_its_package_and_harms_nothing_else(install, source, value, cause):
    install("ts_bad", "0.3", source=source, bad=value)
    install("ts_slack", source=SOURCE, slack="ts_slack:Slack")

    with pytest.raises(CallbackError) as caught:
        registry.load("bad")

    assert "the callback 'bad' of ts_bad 0.3, ts_bad:Bad" in str(caught.value)
    assert cause in str(caught.value)
    assert registry.load("slack")


def test_two_packages_that_claim_one_name_are_both_told(install):
    install("ts_one", "1.0", source=SOURCE, slack="ts_one:Slack")
    install("ts_two", "2.0", source=SOURCE, slack="ts_two:Slack")

    with pytest.raises(CallbackError, match=r"'slack' is claimed by ts_\w+ \d.0, .* and ts_\w+ \d.0, ") as caught:
        registry.load("slack")

    assert "ts_one 1.0" in str(caught.value)
    assert "ts_two 2.0" in str(caught.value)
    assert len(registry.claims_by_name()["slack"]) == 2


def test_one_package_found_twice_on_the_path_claims_once(install, monkeypatch):
    install("ts_slack", source=SOURCE, slack="ts_slack:Slack")
    monkeypatch.syspath_prepend(f"{sys.path[0]}/.")

    assert registry.find("slack").package == "ts_slack"


def test_a_package_that_is_installed_while_the_process_runs_is_found(install):
    install("ts_one", source=SOURCE, one="ts_one:Slack")
    before = registry.registered()
    install("ts_two", source=SOURCE, two="ts_two:Slack")

    assert "two" not in before
    assert {"one", "two"} <= registry.registered().keys()
