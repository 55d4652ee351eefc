"""The files around the code agree with it: versions, environments, workflows, forms."""

from __future__ import annotations

import ast
import configparser
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from trackside.trainer.arguments.aliases import ALIASES
from trackside.trainer.arguments.constructor import MODEL_PATH

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(".github/**/*.yml"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def loaded(name: str):
    return YAML(typ="safe", pure=True).load(read(name))


def ini(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(read(name))
    return parser


def requirements(text: str, sign: str) -> dict[str, str]:
    return dict(re.findall(rf"^([\w.-]+) ?{sign}([\w.]+)", text, re.MULTILINE))


def workflow_jobs(name: str) -> dict[str, dict]:
    return loaded(f".github/workflows/{name}.yml")["jobs"]


@pytest.mark.parametrize("name", ["CITATION.cff", ".pre-commit-config.yaml", *FORMS])
def test_every_yaml_file_is_a_map(name):
    assert isinstance(loaded(name), dict)


def test_the_lowest_versions_that_are_tested_are_those_that_are_declared():
    setup = ini("setup.cfg")
    extras = setup["options.extras_require"]
    declared = "\n".join([setup["options"]["install_requires"], extras["torch"], extras["tensorflow"]])

    assert requirements(read(".ci/lowest.txt"), "==") == requirements(declared, ">=")


def test_each_workflow_runs_environments_that_exist_on_the_versions_of_python_that_are_declared():
    environments = {name.removeprefix("testenv:") for name in ini("tox.ini").sections()}
    setup = ini("setup.cfg")
    declared = set(re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"]))

    jobs = workflow_jobs("ci")
    parts = jobs["part"]["strategy"]["matrix"]["include"]
    pythons = {part["python"] for part in parts} | {"3.11"}

    assert {part["env"] for part in parts} <= environments
    assert pythons == declared
    assert setup["options"]["python_requires"] == f">={min(declared, key=lambda text: int(text.split('.')[1]))}"
    assert ".ci/run" in [step.get("run") for step in jobs["all"]["steps"]]


def test_a_release_is_published_without_a_token_and_only_after_its_checks():
    jobs = workflow_jobs("release")

    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in read(".github/workflows/release.yml")


def test_the_hooks_before_a_commit_have_the_versions_that_tox_has():
    pinned = requirements(read("constraints.txt"), "==")
    (local,) = loaded(".pre-commit-config.yaml")["repos"]

    used = [line for hook in local["hooks"] for line in hook["additional_dependencies"]]

    assert {name: pinned.get(name) for name in requirements("\n".join(used), "==")} == requirements(
        "\n".join(used), "=="
    )


def test_the_page_on_compatibility_lists_what_is_deprecated():
    page = read("docs/reference/compatibility.md")
    rows = re.findall(r"^\| `(.+?)`.*\| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    known = [alias.deprecation for alias in ALIASES if alias.deprecation is not None] + [MODEL_PATH]

    assert set(rows) == {
        ("RankTimeMonitorCallback", "0.2.0", "1.0.0"),
        *((item.name, item.since, item.removed_in) for item in known),
    }


def test_the_version_is_written_in_one_place():
    tree = ast.parse(read("api/__init__.py"))
    (version,) = [
        node.value.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    ]

    assert ini("setup.cfg")["metadata"]["version"] == "attr: trackside.__version__"
    assert "version" not in loaded("CITATION.cff")
    assert "trackside.__version__" in read("docs/conf.py")
    assert re.search(rf"^## \[(Unreleased|{re.escape(version)})\]", read("CHANGELOG.md"), re.MULTILINE)
