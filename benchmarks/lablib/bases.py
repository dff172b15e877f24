"""Pretrained bases of the laboratory: the shipped one, and more from other seeds, built when first asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "examples" / "lab"
BASES = 3
_SHIPPED = f"{LAB.relative_to(ROOT)}/"


def base_number(seed: int) -> int:
    """Which base an alignment seed uses."""
    return seed % BASES


def base_folder(number: int, cache: Path, two_tasks: bool = False) -> Path:
    """Folder with ``model/``, ``guard/`` and ``data/`` of one base; number 0 is the shipped one, which knows one task.

    A base that is not there is pretrained by ``make_lab.py``: about 20 CPU minutes. It is built beside its place and
    moved there when finished, so that a killed build leaves nothing that looks like a base.

    Raises:
        click.ClickException: building failed; the log is named.
    """
    if number == 0 and not two_tasks:
        return LAB
    name = f"two{number}" if two_tasks else f"seed{number}"
    folder = cache / name
    if (folder / "guard" / "chat_template.jinja").is_file():  # the last file that make_lab.py writes
        return folder
    part, log = cache / f"{name}.part", cache / f"{name}.log"
    cache.mkdir(parents=True, exist_ok=True)
    click.echo(f"pretraining base {number}, about 20 CPU minutes; see {log}", err=True)
    command = [sys.executable, str(LAB / "make_lab.py"), "--seed", str(number), "--out", str(part)]
    command += ["--two-tasks"] if two_tasks else []
    with open(log, "w", encoding="utf-8") as out:
        code = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        raise click.ClickException(f"make_lab.py --seed {number}: exit code {code}, see {log}")
    os.replace(part, folder)
    return folder


def on_base(value: Any, folder: Path) -> Any:
    """A config with every path below ``examples/lab/`` turned to another base's folder."""
    if isinstance(value, dict):
        return {key: on_base(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [on_base(item, folder) for item in value]
    if isinstance(value, str) and value.startswith(_SHIPPED):
        return str(folder / value.removeprefix(_SHIPPED))
    return value
