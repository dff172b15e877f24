"""A record of one run of the tests, from which the table of docs/compatibility.md is made."""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path

import pytest

from axolotl_safety.util.version import installed

PACKAGES = ("axolotl", "torch", "transformers", "trl", "peft", "datasets", "ray")


def write_record(folder: Path, config: pytest.Config) -> None:
    """One file per Axolotl, Python and choice of tests: versions, counts, date."""
    reports = config.pluginmanager.get_plugin("terminalreporter").stats
    tests = f"-m {config.option.markexpr}" if config.option.markexpr else "all"
    tests = " ".join([tests, *(config.args if config.args_source.name == "ARGS" else [])])
    record = {
        "versions": {"python": platform.python_version(), **installed(PACKAGES)},
        "tests": tests,
        "passed": len(reports.get("passed", [])),
        "failed": len(reports.get("failed", [])) + len(reports.get("error", [])),
        "skipped": len(reports.get("skipped", [])),
        "date": datetime.date.today().isoformat(),
    }
    versions = record["versions"]
    name = f"axolotl-{versions['axolotl']}-python-{versions['python']}-{'all' if tests == 'all' else 'part'}.json"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
