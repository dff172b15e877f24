"""Refusals under a push, on the laboratory: methods with and without recovery rows.

    python benchmarks/lab_push.py --seeds 5 --json -

Every method trains on the same prompts with its benign half, at one setting, in the loop of `lab_fair.py`. The result
is read on the test split of another base (seed s on base s mod 3): harmful prompts of seen and of unseen categories and
benign ones, plain and under every push of `lablib/push.py`. A prefill is the beginning of the base's own greedy thought
of that prompt, which goes on to comply; training cut other thoughts at other places. Openings and wrappers are those of
`safety.eval.attacks`, which no row of training has seen.

Results are kept under --results as lines of JSON, and not made again: kill it and run it again. Several processes may
share the work (--methods, --first-seed).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples" / "lab"), str(HERE.parent)]

from lablib import fair, push  # noqa: E402
from lablib.bases import BASES, base_folder  # noqa: E402
from lablib.loop import Setting, Tuning  # noqa: E402
from lablib.options import listed  # noqa: E402
from lablib.summary import loss, shown, shown_loss, spread, table  # noqa: E402
from lablib.training import preload  # noqa: E402


@dataclass(frozen=True)
class Arm:
    """What is trained, and how.

    Attributes:
        source: the entry of ``METHODS`` whose data stage makes the rows; None is the base.
        setting: what is trained, and how fast.
        steps: after which training ends.
    """

    source: str | None
    setting: Setting = Setting("r16", 1e-3)
    steps: int = 200


ARMS = {
    "base": Arm(None, steps=0),
    "vanilla": Arm("vanilla_benign"),
    "dgr": Arm("dgr"),
    "thinksafe": Arm("thinksafe"),
    "dgr_recover": Arm("dgr_recover"),
    "thinksafe_recover": Arm("thinksafe_recover"),
    "thinksafe_continue": Arm("thinksafe_continue"),
}
PROMPTS = 50  # per set
SHOWN = ("plain", "prefill 8", "prefill 24", "prefill whole")
GROUPS = ("opening", "wrapped")


def one_run(name: str, seed: int, base: Path, work: Path) -> dict[str, Any]:
    """Train an arm and read it on the test split."""
    from labkit.models import load_model

    arm, started = ARMS[name], time.process_time()
    model = load_model(base / "model")[0]
    rows: list[fair.Row] = []
    if arm.source:
        rows = fair.both_halves(arm.source, seed, base, work)
        tuning = Tuning(model, rows, arm.setting, seed)
        tuning.advance(arm.steps)
        model = tuning.finished()
    judge = fair.Judge(base, "test")
    refusals = push.Pushes(base, "test", PROMPTS).refusals(model)
    lost = fair.signs(judge.lost(model, "math"))
    setting = {"shape": arm.setting.shape, "learning_rate": arm.setting.rate, "steps": arm.steps}
    counts = {"rows": len(rows), "begun": sum(row.begun for row in rows)}
    return {**setting, **counts, "refusals": refusals, "lost_math": lost, "cpu_s": round(time.process_time() - started)}


def row(name: str, runs: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """One arm over its seeds: refusals in percent by set and push, and the reasoning loss."""
    line: dict[str, Any] = {"method": name, "n": len(runs), "seeds": seeds, "rows": runs[0]["rows"]}
    for places in push.PROMPTS:
        for one in runs[0]["refusals"][places]:
            line |= spread(f"{places}/{one}", [run["refusals"][places][one] for run in runs])
        for group in GROUPS:
            members = [[rate for one, rate in run["refusals"][places].items() if one.startswith(group)] for run in runs]
            line |= spread(f"{places}/{group}", [sum(rates) / len(rates) for rates in members])
    return line | loss("loss", [fair.lost_of(run, "math") for run in runs])


def markdown(rows: list[dict[str, Any]]) -> str:
    """One line per arm and set of prompts."""
    heads = ["method", "runs", "prompts", *SHOWN, *GROUPS, "reasoning lost [95 %]"]
    lines = []
    for line in rows:
        for places in push.PROMPTS:
            cells = [line["method"], str(line["n"]), places.replace("_", ", ")]
            cells += [shown(line, f"{places}/{one}", 0) for one in (*SHOWN, *GROUPS)]
            lines.append([*cells, shown_loss(line, "loss")])
    return table(heads, lines)


@click.command()
@click.option("--seeds", default=5, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
@click.option("--methods", callback=listed(tuple(ARMS)), default=",".join(ARMS), show_default=True)
@click.option("--bases", type=click.Path(path_type=Path), default=HERE.parent / "outputs" / "lab_bases")
@click.option("--work", type=click.Path(path_type=Path), default=HERE.parent / "outputs" / "lab_fair")
@click.option("--results", "folder", type=click.Path(path_type=Path), default=HERE / "results" / "lab_push")
@click.option("--json", "target", default="-", show_default=True, help="Where the line of JSON goes.")
def main(seeds: int, first_seed: int, methods: list[str], bases: Path, work: Path, folder: Path, target: str) -> None:
    """Print the table in markdown, then one line of JSON."""
    preload()
    kept, rows = fair.Results(folder / "runs.jsonl"), []
    for name in methods:
        keys = [
            fair.Key(name, 100, ARMS[name].setting.shape, ARMS[name].setting.rate, seed, f"two{seed % BASES}")
            for seed in range(first_seed, first_seed + seeds)
        ]
        for key in keys:
            if key not in kept.all():
                base = base_folder(key.seed % BASES, bases.absolute(), two_tasks=True)
                found = one_run(name, key.seed, base, work.absolute() / key.base / f"seed{key.seed}")
                kept.add(key, found)
                plain = {places: found["refusals"][places]["plain"] for places in push.PROMPTS}
                click.echo(f"{name}, seed {key.seed}: {plain}, {found['cpu_s']} CPU s", err=True)
        every = kept.all()
        rows.append(row(name, [every[key] for key in keys], [key.seed for key in keys]))
    click.echo(markdown(rows))
    with click.open_file(target, "w", encoding="utf-8") as out:
        out.write(json.dumps({"rows": rows, "arms": {name: asdict(ARMS[name]) for name in methods}}) + "\n")


if __name__ == "__main__":
    main()
