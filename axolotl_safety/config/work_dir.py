"""Names of files in ``safety.work_dir``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LATEST = "datasets/latest.json"  # which hashes the last finished stage wrote, whichever YAML it was of
DEVELOPMENT = "stop/latest.json"  # what training is judged by while it runs (safety.stop)
STOPPED = "stop/training-latest.json"  # how it went
EVALUATIONS = "evaluations"
LATEST_EVALUATION = f"{EVALUATIONS}/latest.json"
REPORT = "report.html"


def of_run(latest: str, run: str) -> str:
    """The file that says the same of one YAML alone: several may share a work folder."""
    return latest.replace("latest.json", f"latest-{run}.json")


def read_latest(work_dir: Path, latest: str, run: str | None) -> dict[str, Any]:
    """What the last one wrote, of one run, or of any.

    A folder that only an earlier version of this package has written to does not tell runs apart; the last one counts.

    Raises:
        OSError: there is none.
        ValueError: it is damaged.
    """
    told_apart = run is not None and any((work_dir / latest).parent.glob("latest-*.json"))
    path = work_dir / (of_run(latest, run) if run is not None and told_apart else latest)
    said = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError(f"{path} holds no mapping")
    return said
