"""What each engine run cost, kept beside the journals: a later run that starts no engine knows it too."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .journal import Journal
from .queue import WorkQueue, content_id

LOG = logging.getLogger(__name__)
RUNS = "runs.jsonl"  # in work_dir
_KIND = "run"


def record_run(work_dir: Path, backend: str, queue: WorkQueue) -> None:
    """Note what the queue's engine cost, if it had to be started; a full disk costs this note and nothing else."""
    if queue.engine is None:
        return
    figures = {name: value for name, value in asdict(queue.engine.figures).items() if name != "pids"}
    fields = {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": backend,
        **figures,
        "made": dict(sorted(queue.made.items())),
    }
    try:
        with Journal(work_dir / RUNS) as journal:
            journal.append(_KIND, content_id(fields, len(journal)), fields)
    except OSError as error:
        LOG.warning("%s: the engine's figures could not be noted: %s", work_dir / RUNS, error)


def read_runs(work_dir: Path) -> list[Mapping[str, Any]]:
    """Every engine run of this work folder, oldest first."""
    if not (work_dir / RUNS).is_file():
        return []
    with Journal(work_dir / RUNS) as journal:
        return [record for kind, request_id in journal.keys() if (record := journal.get(kind, request_id))]
