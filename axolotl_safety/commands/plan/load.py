"""From a YAML's path to a plan, the way Axolotl itself would read the YAML."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from axolotl_safety.config.section import our_entries
from axolotl_safety.guards.judge import ModelGuard
from axolotl_safety.pipeline.inputs import StageInputs, stage_inputs
from axolotl_safety.util.errors import ConfigError

from . import machine
from .cards import Card
from .figures import Hardware, Plan
from .plan import make_plan


def load_config(path: Path, place: Hardware, overrides: Mapping[str, Any] | None = None) -> Any:
    """The validated config. Axolotl asks for the GPU that the plan is for, not for this machine's.

    Raises:
        ConfigError: the YAML is not valid, or has no data stage.
    """
    from axolotl_safety.config.load import validated_config

    elsewhere = capabilities_of(place.card, len(place.cards)) if place.card is not None and place.elsewhere else None
    logging.getLogger("axolotl_safety").setLevel(logging.WARNING)
    cfg = validated_config(path, elsewhere, overrides)
    if cfg.rl:
        raise ConfigError(f"rl: {cfg.rl} has no data stage, so there is nothing to plan; train with it as it is.")
    if not our_entries(cfg):
        raise ConfigError("datasets: no entry has a type of this plugin, so there is nothing to plan.")
    return cfg


def capabilities_of(card: Card, count: int) -> dict[str, Any]:
    """What Axolotl's validation asks about a GPU, for one that is not here."""
    capability = card.capability or 8.0
    return {
        "bf16": capability >= 8.0,
        "fp8": capability >= 8.9,
        "tf32": capability >= 8.0,
        "n_gpu": count,
        "compute_capability": f"sm_{capability * 10:.0f}",
    }


def plan_run(cfg: Any, place: Hardware, engine_wanted: bool = False) -> tuple[Plan, dict[str, Any], StageInputs]:
    """Plan a config on this machine, or for cards elsewhere; with the engine wanted even where nothing is generated.

    Returns:
        The plan, what was found out about the machine, and the inputs stage.
    """
    from axolotl_safety.config.section import section

    engine = section(cfg).engine
    assumed = None
    if place.elsewhere and engine.backend in ("auto", "vllm"):
        assumed = "vllm"  # what the other machine has installed cannot be seen from here
    inputs = stage_inputs(cfg, section(cfg), assumed, engine_wanted)
    journals = inputs.open_journals(read_only=True)
    try:
        plan = make_plan(cfg, inputs, journals, place)
    finally:
        for journal in journals.values():
            journal.close()
    closed = machine.access(names_of(cfg, inputs)) if plan.load.requests else {}
    said = [f"{name}: {word}." for name, word in closed.items() if word]
    findings = plan.findings
    if assumed and engine.backend == "auto":
        findings = replace(findings, assumptions=("the other machine has vLLM", *findings.assumptions))
    if place.elsewhere:  # its cache is not this one's
        findings = replace(findings, warnings=(*findings.warnings, *said))
    else:
        findings = replace(findings, problems=(*findings.problems, *said))
    found = {"versions": machine.versions(engine.python), "access": closed}
    return replace(plan, findings=findings), found, inputs


def names_of(cfg: Any, inputs: StageInputs) -> list[tuple[str, str | None]]:
    """The models that a run reads, and their revisions."""
    guards = [(guard.files.spec.path, None) for guard in inputs.guards if isinstance(guard, ModelGuard)]
    return [(str(cfg.base_model), cfg.revision_of_model), *guards]
