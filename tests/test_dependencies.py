"""What the package stands on: declared, pinned to one version, under licences that a company may use.

Known vulnerabilities need a list that changes daily and lives elsewhere: ``make audit``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.distributions import closure

ROOT = Path(__file__).parents[1]
EXTRAS = {"vllm", "ray", "lm_eval"}  # imported where they are asked for; absent is a message of its own
NOT_FOR_EVERYBODY = re.compile(
    r"\bAGPL|(?<!L)\bGPL|Affero|(?<!Lesser )(?<!Library or Lesser )General Public License|SSPL|BUSL|Non-?Commercial"
    r"|CC-BY-NC|Proprietary",
    re.IGNORECASE,
)
SETS_THE_ENVIRONMENT_UP = {"axolotl-safety", "setuptools", "pip", "uv"}


@pytest.fixture(scope="module")
def needed() -> dict[str, Distribution]:
    return closure("axolotl-safety", "dev")


def imports() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "axolotl_safety").rglob("*.py")):
        if "lab/" in path.relative_to(ROOT / "axolotl_safety").as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                yield name.partition(".")[0], str(path.relative_to(ROOT))


def test_everything_imported_is_declared_or_brought_by_axolotl():
    declared = closure("axolotl-safety", "")
    owners = packages_distributions()
    own = {path.stem for path in (ROOT / "axolotl_safety" / "engines" / "worker").glob("*.py")} | {"axolotl_safety"}
    strangers = {
        f"{name} in {path}"
        for name, path in imports()
        if name not in sys.stdlib_module_names | own | EXTRAS
        and not any(canonicalize_name(owner) in declared for owner in owners.get(name, []))
    }
    assert not strangers, "imported and in no install_requires of setup.cfg"


def test_everything_installed_is_pinned_to_the_version_that_was_tested(needed):
    pinned = ROOT / "constraints" / f"axolotl-{'.'.join(version('axolotl').split('.')[:2])}.txt"
    lines = [line.partition("#")[0].strip() for line in pinned.read_text().splitlines()]
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, filter(None, lines))}
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) and not pin.url for pin in pins.values())
    loose = [
        f"{name} {here.version}"
        for name, here in needed.items()
        if name not in SETS_THE_ENVIRONMENT_UP
        and (name not in pins or not pins[name].specifier.contains(here.version, prereleases=True))
    ]
    assert not loose, f"add to {pinned}, or install with -c {pinned}"


def test_the_second_environment_is_locked_by_hash():
    text = (ROOT / "tests" / "with_vllm" / "requirements.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text.replace("\\\n", " "), flags=re.MULTILINE))
    entries = [entry for entry in entries if entry.strip() and not entry.lstrip().startswith(("#", "--"))]
    assert len(entries) > 50
    unlocked = [entry[:60] for entry in entries if "--hash=sha256:" not in entry or "==" not in entry]
    assert not unlocked


def licence(here: Distribution) -> str:
    said = here.metadata
    trove = [line for line in said.get_all("Classifier", []) if line.startswith("License ::")]
    # Some put the whole text there: its head names it.
    return said.get("License-Expression") or "; ".join(trove) or (said.get("License") or "")[:200]


def test_no_dependency_has_a_licence_that_binds_or_bars_its_user(needed):
    # A CUDA build of PyTorch brings NVIDIA's own libraries, whose terms come with the card that they are for.
    ours = {name: here for name, here in needed.items() if not name.startswith(("nvidia-", "cuda-"))}
    barred = {name: licence(here) for name, here in ours.items() if NOT_FOR_EVERYBODY.search(licence(here))}
    assert not barred


@pytest.mark.parametrize(
    ("text", "is_barred"),
    [
        ("GPL-3.0-only", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("AGPL-3.0-or-later", True),
        ("CC-BY-NC-4.0", True),
        ("License :: Other/Proprietary License", True),
        ("LGPL-2.1-only", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v2 or later (LGPLv2+)", False),
        ("GNU LESSER GENERAL PUBLIC LICENSE", False),
        ("Apache-2.0", False),
    ],
)
def test_the_licence_test_can_fail(text, is_barred):
    assert bool(NOT_FOR_EVERYBODY.search(text)) is is_barred
