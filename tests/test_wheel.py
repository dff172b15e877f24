"""The wheel, installed away from the repository: what it carries, what it says, and the laboratory out of it."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest
import yaml
from axolotl.integrations.base import BasePlugin

import axolotl_safety
from axolotl_safety.commands.lab import copy_lab, lab_files
from axolotl_safety.util.errors import ConfigError
from axolotl_safety.util.releases import PLUGIN

ROOT = Path(__file__).parents[1]
NEEDED = ("axolotl_safety", "examples/lab", "yaml", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
JUNK = shutil.ignore_patterns("__pycache__", "*.egg-info", "cache")
COMMANDS = ("safety-demo", "safety-eval", "safety-plan", "safety-report")


def run(*words: str, folder: Path, package: Path) -> str:
    """A command's output, with the installed package on the path and the repository nowhere."""
    environ = os.environ | {"PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing lies about from an earlier build."""
    source, built = (tmp_path_factory.mktemp(name) for name in ("source", "built"))
    for name in NEEDED:
        target = source / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, symlinks=True, ignore=JUNK)
        else:
            shutil.copyfile(ROOT / name, target)
    build = f"import setuptools.build_meta as backend; backend.build_wheel({str(built)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def package(wheel, tmp_path_factory):
    """A wheel of pure Python is installed by unpacking it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_it_carries_the_package_and_nothing_else(wheel, package):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"axolotl_safety-{axolotl_safety.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"axolotl_safety", info}
    assert f"{info}/licenses/LICENSE" in names and wheel.stat().st_size < 5_000_000

    code = {str(path.relative_to(ROOT)) for path in (ROOT / "axolotl_safety").rglob("*.py")}
    data = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "axolotl_safety" / "commands" / "report" / "templates").iterdir()
    }
    data |= {f"axolotl_safety/commands/lab/{path}" for path in lab_files()}
    refusal = ("refusal_weights.json", "acts.txt", "languages.txt", "words.txt")
    data |= {f"axolotl_safety/data/refusal/{name}" for name in refusal}
    assert code | data == {name for name in names if not name.startswith(info)}
    assert {"yaml/lab_dgr.yml", "examples/lab/model/model.safetensors"} <= {str(path) for path in lab_files()}


def test_one_version_everywhere(package):
    installed = PathDistribution(next(package.glob("*.dist-info")))
    assert installed.version == axolotl_safety.__version__
    assert set(installed.metadata.get_all("Provides-Extra")) == {"dev", "ray", "vllm"}
    code = (
        "import axolotl_safety, sys; from axolotl_safety.pipeline.manifest import versions; "
        "assert 'torch' not in sys.modules; print(axolotl_safety.__file__, versions()['axolotl_safety'])"
    )
    said = run("-c", code, folder=package.parent, package=package).split()
    assert said == [str(package / "axolotl_safety" / "__init__.py"), axolotl_safety.__version__]


def test_every_command_is_reachable_and_says_the_version(package):
    code = (
        "import sys; from axolotl.cli.main import cli; from click.testing import CliRunner\n"
        "for name in sys.argv[1:]: print(name, CliRunner().invoke(cli, [name, '--version']).output.split('\\n')[-2])"
    )
    said = run("-c", code, *COMMANDS, folder=package.parent, package=package).splitlines()
    assert said[-len(COMMANDS) :] == [f"{name} axolotl-safety {axolotl_safety.__version__}" for name in COMMANDS]


def test_the_declared_entry_points_exist(package):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    points = PathDistribution(next(package.glob("*.dist-info"))).entry_points
    declared = {
        (group, *line.split(" = "))
        for group, lines in setup["options.entry_points"].items()
        for line in lines.split("\n")
        if line
    }
    assert {(point.group, point.name, point.value) for point in points} == declared
    commands = [point for point in points if point.group == "axolotl.cli_commands"]
    assert sorted(point.name for point in commands) == list(COMMANDS)
    for point in commands:
        assert point.load().name == point.name
    (plugin,) = [point for point in points if point.group == "axolotl.plugins"]
    assert f"{plugin.module}.{plugin.attr}" == PLUGIN and issubclass(plugin.load(), BasePlugin)


def test_the_laboratory_comes_out_whole_and_its_recipes_find_their_files(package, tmp_path):
    out = tmp_path / "lab"
    said = run("-m", "axolotl_safety.commands.demo", "--copy", "--out", str(out), folder=tmp_path, package=package)
    assert str(out) in said and "axolotl train yaml/lab_dgr.yml" in said
    for name in ("examples/lab", "yaml"):
        theirs = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        for path in (path for path in theirs if not {"__pycache__", "cache"} & set(path.parts)):
            assert (out / path).read_bytes() == (ROOT / path).read_bytes()
    for recipe in (out / "yaml").glob("lab_*.yml"):
        config = yaml.safe_load(recipe.read_text())
        named = [config["base_model"], *(entry["path"] for entry in config["datasets"])]
        assert all((out / path).exists() for path in named), recipe.name


def test_what_a_folder_holds_is_never_overwritten(tmp_path):
    assert copy_lab(tmp_path) == copy_lab(tmp_path)
    recipe = tmp_path / "yaml" / "lab_dgr.yml"
    recipe.write_text("mine")
    (tmp_path / "yaml" / "lab_grpo.yml").unlink()
    with pytest.raises(ConfigError, match=r"1 files of other content.*lab_dgr.yml.*another folder"):
        copy_lab(tmp_path)
    assert recipe.read_text() == "mine" and not (tmp_path / "yaml" / "lab_grpo.yml").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be copied"):
        copy_lab(tmp_path / "file")


def test_setup_cfg_asks_for_what_is_installed():
    """The range that the package declares holds the Axolotl that these tests run with."""
    from packaging.requirements import Requirement

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line]
    for requirement in wanted:
        assert requirement.specifier.contains(distribution(requirement.name).version), requirement
