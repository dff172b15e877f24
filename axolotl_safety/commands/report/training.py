"""How a training under ``safety.stop`` went, for the report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_safety.config.work_dir import STOPPED, read_latest

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Why it ended, what judging took in percent of training time, and a line for each judgement.

    A line has ``step, refusal, harmful, over_refusal, benign, seconds``; rates in percent, None where nothing was
    asked.
    """

    why: str
    share: float
    lines: list[dict[str, Any]]


def read_training(work_dir: Path, run: str | None = None) -> Training | None:
    """The last training in a work folder, of one run if that is given; None if none was judged, or none can be read."""
    try:
        said = read_latest(work_dir, STOPPED, run)
        lines = [
            {name: one[name] for name in ("step", "harmful", "benign", "seconds")}
            | {"refusal": 100 * one["refused"] / one["harmful"]}
            | {"over_refusal": 100 * one["over_refused"] / one["benign"] if one["benign"] else None}
            for one in said["judgements"]
        ]
        seconds = said["seconds"]
        share = 100 * seconds["judging"] / seconds["training"] if seconds["training"] > 0 else 0.0
        return Training(str(said["why"]), share, lines)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        LOG.warning("%s is left out of the report: %s: %s", work_dir / STOPPED, type(error).__name__, error)
        return None
