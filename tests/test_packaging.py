"""The package list, the installed files, the entry points and the declared requirements agree with the checkout."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("api", "callbacks", "integrations", "trainer")


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def installed() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("trackside")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("trackside is not installed here; tox installs it")


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pairs(text: str) -> dict[str, str]:
    split = (line.partition("=") for line in lines(text))
    return {name.strip(): value.strip() for name, _, value in split}


def import_name(folder: Path) -> str:
    room, *below = folder.relative_to(ROOT).parts
    return ".".join(["trackside", *([] if room == "api" else [room]), *below])


def folders_with_modules() -> list[Path]:
    found = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    return sorted(folder for folder in found if "templates" not in folder.parts)


def modules_in_the_tree() -> set[str]:
    return {
        f"{import_name(folder).replace('.', '/')}/{path.name}"
        for folder in folders_with_modules()
        for path in folder.glob("*.py")
    }


def test_every_folder_with_modules_is_a_listed_package(setup_cfg):
    listed = lines(setup_cfg["options"]["packages"])

    assert listed == sorted(import_name(folder) for folder in folders_with_modules())


def test_every_package_has_an_init_file():
    assert [folder for folder in folders_with_modules() if not (folder / "__init__.py").is_file()] == []


def test_package_dir_maps_each_package_onto_its_folder(setup_cfg):
    mapping = pairs(setup_cfg["options"]["package_dir"])

    assert mapping == {import_name(folder): str(folder.relative_to(ROOT)) for folder in folders_with_modules()}


def test_the_package_is_marked_as_typed(setup_cfg):
    assert "py.typed" in lines(setup_cfg["options.package_data"]["trackside"])
    assert (ROOT / "api" / "py.typed").is_file()


def test_entry_points_name_classes_that_exist_and_are_sorted(setup_cfg):
    named = pairs(setup_cfg["options.entry_points"]["trackside.callbacks"])

    assert list(named) == sorted(named)
    for target in named.values():
        module, _, attribute = target.partition(":")
        assert isinstance(getattr(importlib.import_module(module), attribute), type)


def test_the_extra_all_holds_every_extra_for_users(setup_cfg):
    extras = setup_cfg["options.extras_require"]
    for_developers = {"all", "dev", "test", "browser", "lint", "type", "docs"}

    (everything,) = lines(extras["all"])

    assert set(re.findall(r"[\w-]+", everything)) - {"trackside"} == set(extras) - for_developers


def test_every_extra_that_an_error_names_is_declared(setup_cfg):
    sources = [path.read_text(encoding="utf-8") for room in ROOMS for path in (ROOT / room).rglob("*.py")]

    named = {extra for source in sources for extra in re.findall(r"extra=\"(\w+)\"", source)}

    assert named - set(setup_cfg["options.extras_require"]) == set()


@pytest.mark.parametrize(("folder", "extra"), [("pytorch", "torch"), ("tensorflow", "tensorflow")])
def test_a_framework_needs_no_package_but_those_of_its_extra(setup_cfg, folder, extra):
    options = setup_cfg["options"], setup_cfg["options.extras_require"]
    required = lines(options[0]["install_requires"]) + lines(options[1][extra]) + lines(options[1]["summary"])
    known = {re.split(r"[^\w-]", line)[0] for line in required} | ({"keras"} if extra == "tensorflow" else set())

    found = {name for path in (ROOT / "trainer" / folder).rglob("*.py") for name in imported_by(path)}
    found -= {"pyarrow"}  # a datasets.Dataset, for which alone it is imported, brings it

    assert found - known - sys.stdlib_module_names - {"trackside"} == set()


def imported_by(path: Path) -> set[str]:
    """Return the packages that a module imports, inside of its functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names}


def test_every_constraint_lies_in_the_declared_range(setup_cfg):
    requirements = pytest.importorskip("packaging.requirements")
    declared = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    pins = dict(line.split("==") for line in lines((ROOT / "constraints.txt").read_text()) if "==" in line)
    pinned = {name.lower(): version for name, version in pins.items()}

    for line in (line for text in declared for line in lines(text)):
        requirement = requirements.Requirement(line)
        version = pinned.get(requirement.name.lower())
        assert version is None or version in requirement.specifier, line


def test_the_installed_files_are_those_of_the_checkout(installed):
    packed = {str(path) for path in installed.files or [] if path.suffix == ".py"}

    assert {path for path in packed if "/templates/" not in path} == modules_in_the_tree()


def test_the_installed_version_is_that_of_the_face(installed):
    import trackside

    assert installed.version == trackside.__version__


def test_the_installed_package_lies_outside_the_checkout(installed):
    spec = importlib.util.find_spec("trackside")

    assert spec is not None
    assert spec.origin is not None
    assert (ROOT / "api") not in Path(spec.origin).parents


def test_the_license_travels_with_the_package(installed):
    licence = installed.metadata.get("License-Expression") or installed.metadata.get("License")
    assert licence == "Apache-2.0"
    assert any(path.name == "LICENSE" for path in installed.files or [])


def test_the_demo_has_one_thread_for_each_framework_and_time_to_save_after_ctrl_c():
    tox_ini = configparser.ConfigParser(interpolation=None)
    tox_ini.read(ROOT / "tox.ini")
    demo = tox_ini["testenv:demo"]

    threads = {name: value for name, value in pairs(demo["set_env"]).items() if name.endswith("_THREADS")}

    assert threads == dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
    assert demo.getfloat("suicide_timeout") >= 10
    assert demo.getfloat("interrupt_timeout") >= 10
