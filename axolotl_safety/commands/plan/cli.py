"""``axolotl safety-plan``: what a YAML would run, whether it fits and how long it takes, before anything starts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axolotl_safety.commands import shown_plainly, version_option
from axolotl_safety.commands.overrides import OVERRIDES_HELP, config_options, given

if TYPE_CHECKING:
    from rich.console import Console


@click.command("safety-plan", epilog=OVERRIDES_HELP)
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--gpu", help="plan for this card instead of the machine's own: rtx4090, a100-80, ...")
@click.option("--gpus", type=click.IntRange(1), help="how many of them; all of the machine's by default")
@click.option("--json", "json_path", help="write the plan as JSON to this file, or to - for the standard output")
@click.option("--try", "tries", type=click.IntRange(1), help="run so many rows through the engine and the guards")
@click.option(
    "--guard-test", is_flag=True, help="put a few plain responses before the guards and say how they are read"
)
@click.option("--measure-shift", type=click.IntRange(1), help="NLL of so many references per dataset under base_model")
@version_option
@config_options
def main(
    config: Path,
    gpu: str | None,
    gpus: int | None,
    json_path: str | None,
    tries: int | None,
    guard_test: bool,
    measure_shift: int | None,
    **overrides: Any,
) -> None:
    """What a run would take: rows, requests, memory, time; whether it fits this card."""
    with shown_plainly():
        if guard_test:
            if gpu or gpus or tries or measure_shift:
                raise click.UsageError("--guard-test runs the guards alone, so it goes with --json and nothing else.")
            ok = _test_guards(config, json_path, given(overrides))
        else:
            ok = _run(config, gpu, gpus, json_path, tries, measure_shift, given(overrides))
    sys.exit(0 if ok else 1)


def _run(
    config: Path,
    gpu: str | None,
    gpus: int | None,
    json_path: str | None,
    tries: int | None,
    measure: int | None,
    overrides: dict[str, Any],
) -> bool:
    from axolotl_safety.util.errors import ConfigError

    from .cards import machine_cards, named_card
    from .figures import Hardware
    from .load import load_config, plan_run
    from .report import as_json, show

    if gpu and (tries or measure):
        raise ConfigError("--try and --measure-shift run on this machine, so they cannot be combined with --gpu.")
    if gpus and not gpu and gpus > len(machine_cards()):
        raise ConfigError(f"--gpus {gpus}: this machine has {len(machine_cards())}. Name a card with --gpu.")
    place = Hardware((named_card(gpu),) * (gpus or 1), True) if gpu else Hardware(tuple(machine_cards()[:gpus]))
    cfg = load_config(config, place, overrides)
    console = _console(json_path)
    plan, machine, inputs = plan_run(cfg, place, engine_wanted=measure is not None)
    show(console, plan, machine)
    found = as_json(plan, machine)
    if measure:
        from .report import show_shift
        from .shift import measure_shift

        figures = measure_shift(cfg, inputs, measure)
        show_shift(console, figures)
        found["shift"] = [asdict(one) for one in figures]
    if tries:
        from .report import show_trial, trial_json
        from .trial import try_rows

        if plan.engine is not None and not plan.engine.fits:
            raise ConfigError("--try: generation does not fit this card, see above.")
        trial = try_rows(cfg, inputs, plan, tries)
        show_trial(console, trial)
        found["trial"] = trial_json(trial)
    _write_json(json_path, found)
    return plan.can_run


def _test_guards(config: Path, json_path: str | None, overrides: dict[str, Any]) -> bool:
    import logging

    from axolotl_safety.config.load import validated_config

    from .guard_test import guards_tested
    from .report import show_guards

    cfg = validated_config(config, overrides=overrides)
    logging.getLogger("axolotl_safety").setLevel(logging.WARNING)
    readings = guards_tested(cfg)
    show_guards(_console(json_path), readings)
    _write_json(json_path, {"guard_test": [asdict(one) for one in readings]})
    return not any(one.fault for one in readings)


def _console(json_path: str | None) -> Console:
    from rich.console import Console

    stderr = json_path == "-"
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 120)


def _write_json(json_path: str | None, found: dict[str, Any]) -> None:
    from axolotl_safety.util.files import writing_in

    if not json_path:
        return
    text = json.dumps(found, default=str)
    if json_path == "-":
        click.echo(text)  # one line, and the last: Axolotl greets on the standard output too
        return
    with writing_in(Path(json_path).parent):
        Path(json_path).write_text(text + "\n", encoding="utf-8")
