"""The campaign: every case in turn, the table, the line of JSON, the exit code."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from . import damage, disk, engine, evidence, kills, sabotage, together
from .case import Case, Field
from .faults import PHASES, WRITES
from .runs import Job, Runs
from .scenario import Scenario

SEED = 20261125
_FULL = ["journal", "short", "fsync", "parquet", "train", "manifest", "latest"]


def main(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run it; 0 if everything held, 1 if anything did not, 2 for a mistake of the caller."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(environ.get("TORTURE_SEED") or SEED))
    parser.add_argument("--kill-points", type=int, default=66, help="instants at which a run kills itself; at least 50")
    parser.add_argument("--short", action="store_true", help="a few of everything, in seconds; what `make test` runs")
    parser.add_argument(
        "--only", default="", help="only the cases of functions whose name holds this; nothing else counts"
    )
    parser.add_argument("--keep", action="store_true", help="leave the work folders behind")
    chosen = parser.parse_args(arguments)
    mode = environ.get("SABOTAGE", "")
    if mode and mode not in sabotage.MODES:
        print(f"SABOTAGE={mode!r} is not known. Known are: {', '.join(sabotage.MODES)}.", file=sys.stderr)
        return 2
    logging.getLogger("axolotl_safety").setLevel(logging.ERROR)  # of every journal that is cut, a warning
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    scenario = Scenario(folder, 12 if chosen.short else 24)
    try:
        runs = Runs(scenario, mode)
        try:
            points = 5 if chosen.short else chosen.kill_points
            return run(runs, scenario, chosen.seed, points, chosen.short, chosen.only)
        finally:
            runs.close()
    finally:
        if chosen.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def run(runs: Runs, scenario: Scenario, seed: int, points: int, short: bool, only: str = "") -> int:
    """The campaign with runs that are there already; prints the table and, last, the line of JSON."""
    began = time.monotonic()
    console = Console(stderr=False, width=None if sys.stdout.isatty() else 150)
    cases: list[Case] = []
    field = prepare(runs, scenario, seed, cases)
    if field is not None:
        for function, arguments in plan(field, points, short):
            if only not in function.__name__:
                continue
            started = time.monotonic()
            made = function(field, *arguments)
            found = made if isinstance(made, list) else [made]
            for case in found:
                case.seconds = (time.monotonic() - started) / len(found)
                said = "; ".join(["FAILED", *case.problems[:3]]) if case.failed else "held"
                print(f"{case.name} ({case.seconds:.1f} s): {said}", file=sys.stderr, flush=True)
            cases += found
    console.print(table(cases))
    for case in cases:
        for problem in case.problems[:5]:
            console.print(f"{case.name}: {problem}", markup=False, highlight=False)
    summary = summarise(cases, seed, time.monotonic() - began)
    print(json.dumps(summary), flush=True)
    return 1 if summary["failed"] else 0


def prepare(runs: Runs, scenario: Scenario, seed: int, cases: list[Case]) -> Field | None:
    """An undisturbed run, twice: what it leaves is what all others are held against; None if it does not end."""
    scenario.write_rows()
    case = Case("undisturbed, and the same again in another folder")
    cases.append(case)
    base = Path(tempfile.mkdtemp(prefix="campaign-", dir=scenario.folder))
    finished = base / "undisturbed" / "work"
    job = Job(finished, count=True)
    first = runs.finish(job)
    case.tries += 2
    if first.code != 0:
        case.problems.append(f"exit code {first.code}: {first.log[-1500:]}")
        return None
    counts = {(phase, what): count for phase, what, count in json.loads((first.evidence / "counts.json").read_text())}
    unseen = {*WRITES} - {what for _, what in counts}
    case.problems += [f"no run was watched {what!r}: the watch does not reach the product" for what in sorted(unseen)]
    records = evidence.read_records(finished)
    case.doubled += records.doubled
    reference = evidence.Reference(records.lines, evidence.read_output(finished))
    field = Field(base, runs, scenario, random.Random(seed), reference, finished, counts)
    case.unverified += evidence.unverified(finished, field.marks())
    field.resumed(case, Job(field.folder()))
    return field


def plan(field: Field, points: int, short: bool) -> Iterator[tuple[Callable[..., Case | list[Case]], tuple[Any, ...]]]:
    """What is tried, in order: functions of the field, and their further arguments."""

    def some(names: Sequence[str], count: int) -> list[str]:
        return field.dice.sample(list(names), count) if short else list(names)

    def often(count: int) -> int:
        return 1 if short else count

    yield kills.at_instants, (points,)
    yield kills.from_outside, (often(15),)
    yield damage.at_every_byte, (often(3),)
    yield damage.cut_and_resumed, (often(12),)
    yield damage.damaged, (some(list(damage.DAMAGE), 2),)
    yield damage.finished, (often(16),)
    yield disk.full, (_FULL,)
    yield disk.odd_names, (some(disk.NAMES, 1),)
    yield engine.killed_workers, (often(6),)
    if short:
        yield disk.limited, (1,)
        return
    yield kills.interruptions, ()
    yield disk.limited, (4,)
    yield disk.really_full, (4,)
    yield disk.read_only, ()
    yield together.two_at_once, (6,)
    yield together.left_locks, ()
    yield together.leaders, ()
    yield engine.killed_parents, (6,)


def table(cases: Sequence[Case]) -> Table:
    """What was tried and what came of it."""
    shown = Table(title="what was tried", title_justify="left", show_lines=False)
    shown.add_column("case", max_width=46)
    for name in ("tries", "kills", "lost", "doubled", "unverified"):
        shown.add_column(name, justify="right")
    shown.add_column("same bytes", justify="right")
    shown.add_column("stops", max_width=44)
    shown.add_column("s", justify="right")
    shown.add_column("")
    for case in cases:
        same = f"{case.identical} of {case.compared}" if case.compared else "-"
        figures = (case.tries, case.kills.total(), case.lost, case.doubled, case.unverified)
        verdict = "FAILED" if case.failed else "held" if case.tries else "not tried"
        shown.add_row(case.name, *map(str, figures), same, _stops(case), f"{case.seconds:.1f}", verdict)
    return shown


def _stops(case: Case) -> str:
    if not case.stops:
        return ""
    first = " ".join(case.stops[0].split())
    return f"{len(case.stops)}: {first[:110]}{'...' if len(first) > 110 else ''}"


def summarise(cases: Sequence[Case], seed: int, seconds: float) -> dict[str, Any]:
    """The figures of all cases together."""
    killed: Counter[str] = sum((case.kills for case in cases), Counter())
    order = ["preparation", *PHASES]
    failed = [case.name for case in cases if case.failed]
    return {
        "kill_points": killed.total(),
        "lost": sum(case.lost for case in cases),
        "doubled": sum(case.doubled for case in cases),
        "identical": sum(case.identical for case in cases),
        "compared": sum(case.compared for case in cases),
        "unverified": sum(case.unverified for case in cases),
        "clear_stops": sum(len(case.stops) for case in cases),
        "kills_by_phase": {phase: killed[phase] for phase in order if killed[phase]},
        "cases": len(cases),
        "tries": sum(case.tries for case in cases),
        "not_tried": [case.name for case in cases if not case.tries],
        "failed": failed,
        "seed": seed,
        "seconds": round(seconds, 1),
    }
