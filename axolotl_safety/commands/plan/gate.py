"""The plan before an engine starts: what cannot fit, or takes longer than allowed, ends here and not after hours."""

from __future__ import annotations

import logging
from typing import Any

from axolotl_safety.engines.journal import Journal
from axolotl_safety.pipeline.inputs import StageInputs
from axolotl_safety.util.errors import ConfigError

from .cards import machine_cards
from .figures import Hardware, Plan
from .plan import make_plan

LOG = logging.getLogger(__name__)
_SAMPLE_ROWS = 64  # per entry: enough for hours to a tenth, and a fraction of a second to look at


def check_plan(cfg: Any, inputs: StageInputs, journals: dict[str, Journal]) -> Plan:
    """Plan what is left on this machine's cards, and stop what cannot work.

    Raises:
        ConfigError: it cannot fit, or takes longer than ``safety.max_hours``.
    """
    plan = make_plan(cfg, inputs, journals, Hardware(tuple(machine_cards())), _SAMPLE_ROWS)
    for warning in plan.findings.warnings:
        LOG.warning("plan: %s", warning)
    if plan.findings.problems:
        raise ConfigError("the plan says that this cannot run:\n  " + "\n  ".join(plan.findings.problems))
    if plan.hours:
        LOG.info("plan: about %.1f h, %d requests left", plan.hours, round(plan.load.requests))
    return plan
