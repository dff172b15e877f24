"""``axolotl safety-plan``: what a YAML would run, whether it fits and how long it takes, before anything starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click


@click.command("safety-plan")
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--gpu", help="plan for this card instead of the machine's own: rtx4090, a100-80, ...")
@click.option("--gpus", type=click.IntRange(1), help="how many of them; all of the machine's by default")
@click.option("--json", "json_path", help="write the plan as JSON to this file, or to - for the standard output")
@click.option("--try", "tries", type=click.IntRange(1), help="run so many rows through the engine and the guards")
@click.option("--measure-shift", type=click.IntRange(1), help="NLL of so many references per dataset under base_model")
def main(
    config: Path,
    gpu: str | None,
    gpus: int | None,
    json_path: str | None,
    tries: int | None,
    measure_shift: int | None,
) -> None:
    """What a run would take: rows, requests, memory, time; whether it fits this card."""
    from ..errors import ConfigError, DataError, ModelError, StageError

    try:
        ok = _run(config, gpu, gpus, json_path, tries, measure_shift)
    except (ConfigError, DataError, ModelError, StageError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(0 if ok else 1)


def _run(
    config: Path, gpu: str | None, gpus: int | None, json_path: str | None, tries: int | None, measure: int | None
) -> bool:
    from rich.console import Console

    from ..plan.cards import machine_cards, named_card
    from ..plan.load import load_config, plan_run
    from ..plan.plan import Place
    from ..plan.report import as_json, show

    own = machine_cards()
    if gpu:
        place = Place((named_card(gpu),) * (gpus or 1), elsewhere=True)
    else:
        place = Place(tuple(own[: gpus or None]))
    cfg = load_config(config, place)
    console = Console(stderr=json_path == "-")
    plan, machine, prepared = plan_run(cfg, place)
    extra: dict[str, Any] = {}
    show(console, plan, machine)
    if json_path:
        text = json.dumps(as_json(plan, machine) | extra, indent=2, default=str)
        if json_path == "-":
            click.echo(text)
        else:
            Path(json_path).write_text(text + "\n", encoding="utf-8")
    return plan.can_run
