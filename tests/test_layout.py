"""Who may import whom: the contracts of importlinter.ini, and what stands at the package's root."""

from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGES = {"commands", "config", "data", "engines", "guards", "methods", "pipeline", "util"}
FACADES = {"dgr", "recover", "rewards", "thinksafe", "vanilla"}  # Axolotl resolves these by module


def test_every_contract_is_kept(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    status = lint_imports("importlinter.ini", no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_the_root_holds_the_plugin_the_facades_and_eight_packages():
    package = ROOT / "axolotl_safety"
    assert {path.stem for path in package.glob("*.py")} == FACADES | {"__init__", "plugin"}
    assert {path.parent.name for path in package.glob("*/__init__.py")} == PACKAGES


def test_tests_stand_in_rooms_of_the_same_names():
    assert {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} - {"with_vllm"} <= PACKAGES
