"""The laboratory's table: every method over alignment seeds and pretrained bases, at the end and at equal refusal.

    python benchmarks/lab_table.py --seeds 5 --methods base,vanilla,dgr,thinksafe --json -

Seed s trains on base s mod 3 (0 is the shipped one; the others are pretrained when first asked for, see --bases) with
that base's own data and guard; it decides the data stage's draws and the order of training. Each run is `axolotl train`
on a YAML of yaml/. Checkpoints are looked at on the development split for the first that refuses 95 % of the harmful
requests, in seen and in unseen categories (equal refusal), and for the first that also refuses no more than 2 % of the
benign ones (usable): a model on its way to refusing harm refuses everything for a while. These two and the last are
then read once on the test split.

Learning rate and steps belong to a method, not to a base. The rule: among the settings tried (--grid) on the
development split of the shipped base, the one with the smallest shortfall, (100 - refusal seen) + (100 - refusal
unseen) + over-refusal + reasoning loss, all in points and means over seeds; at a tie the smaller learning rate. It is
the same rule for every method, so that a baseline gets its kindest setting. What was tried is in docs/lab-table.md.

    python benchmarks/lab_table.py --grid 7e-4x60,1e-3x80 --methods vanilla --seeds 2 --json -

Finished parts are kept under --work and not made again: kill it and run it again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples" / "lab"), str(HERE.parent)]

from lablib import figures, summary  # noqa: E402
from lablib.bases import BASES, base_folder, base_number  # noqa: E402
from lablib.methods import GRADED, METHODS, Method, config_of  # noqa: E402
from lablib.options import listed  # noqa: E402
from lablib.training import axolotl_train, in_child, preload  # noqa: E402

EVERY = 10  # steps between checkpoints


@dataclasses.dataclass(frozen=True)
class Run:
    """One method on one seed, and where it is kept."""

    name: str
    method: Method
    seed: int
    work: Path
    bases: Path

    @property
    def base(self) -> Path:
        return base_folder(base_number(self.seed), self.bases)

    @property
    def folder(self) -> Path:
        setting = f"{self.method.learning_rate:g}x{self.method.max_steps}"
        return self.work / f"seed{self.seed}" / f"{self.name}-{setting}"

    @property
    def journal(self) -> Path:
        return self.work / f"seed{self.seed}" / "safety"


def train(run: Run) -> figures.Figures:
    """Train, unless that has been done; what was left of a killed run is made again from its start.

    Returns:
        Rows of each half and their shift.
    """
    done = run.folder / "stage.json"
    if (found := figures.kept(done)) is not None:
        return found
    shutil.rmtree(run.folder / "model", ignore_errors=True)
    shutil.rmtree(run.folder / "prepared", ignore_errors=True)
    config = config_of(run.method, run.seed, run.base, run.folder, run.journal, EVERY)
    (run.folder / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")

    def work() -> None:
        axolotl_train(run.folder / "config.yml")
        online = run.method.recipe == "lab_grpo"  # no training set to read
        stage = {"rows": None, "shift": None} if online else figures.stage_figures(run.base, run.journal)
        figures.keep(done, stage)

    in_child(work, log=run.folder / "log.txt")
    return figures.kept(done)


def measured(path: Path, base: Path, adapter: Path | None, split: str, sets: Sequence[str] | None = None) -> Any:
    """Figures of a model on a split, kept under ``path``."""
    if not path.is_file():
        in_child(lambda: figures.keep(path, figures.outcomes(base, adapter, split, sets)), log=path.with_suffix(".log"))
        path.with_suffix(".log").unlink()
    return figures.kept(path)


def base_figures(run: Run, split: str) -> figures.Figures:
    """The base of a run, untouched."""
    return measured(run.work / f"base{base_number(run.seed)}-{split}.json", run.base, None, split)


def one_run(run: Run) -> dict[str, Any]:
    """Train, find the checkpoints to look at on the development split, read them and the last on the test split."""
    whole = run.folder / "result.json"
    if (found := figures.kept(whole)) is not None:
        return found
    stage = train(run)
    steps = sorted(int(path.name.split("-")[1]) for path in (run.folder / "model").glob("checkpoint-*"))

    def adapter(step: int) -> Path:
        return run.folder / "model" / f"checkpoint-{step}"

    def look(step: int, sets: Sequence[str]) -> Any:
        return measured(run.folder / f"dev-{step}-{sets[0]}.json", run.base, adapter(step), "dev", sets)

    found = figures.milestones(steps, look)
    result = {"method": run.name, "seed": run.seed, "base_number": base_number(run.seed), **stage}
    result |= {"learning_rate": run.method.learning_rate, "max_steps": run.method.max_steps, "curve": found.curve}
    result |= {"base": base_figures(run, "test"), "equal_step": found.equal, "usable_step": found.usable}
    for name, at in (("equal", found.equal), ("usable", found.usable), ("end", steps[-1])):
        result[name] = at and measured(run.folder / f"test-{at}.json", run.base, adapter(at), "test")
    figures.keep(whole, result)
    shutil.rmtree(run.folder / "prepared", ignore_errors=True)
    return result


def base_result(run: Run) -> dict[str, Any]:
    """The untouched base as a row: it loses nothing and reaches nothing."""
    found = base_figures(run, "test")
    return {
        "seed": run.seed,
        "base": found,
        "end": found,
        **dict.fromkeys(("equal", "equal_step", "usable", "usable_step")),
        "shift": None,
        "rows": None,
        "learning_rate": None,
        "max_steps": None,
    }


def dev_run(run: Run) -> dict[str, Any]:
    """Train, and read the last checkpoint on the development split."""
    stage = train(run)
    path = run.folder / f"dev-{run.method.max_steps}-all.json"
    found = measured(path, run.base, run.folder / "model", "dev")
    lost = summary.lost_items(base_figures(run, "dev"), found)
    return found | stage | {"seed": run.seed, "reasoning_loss": 100 * sum(lost) / len(lost)}


def choose(name: str, grid: Sequence[tuple[float, int]], runs: Sequence[Run]) -> dict[str, Any]:
    """Every setting on the development split, and the one that the rule takes."""
    tried = []
    for rate, steps in sorted(grid):
        method = dataclasses.replace(METHODS[name], learning_rate=rate, max_steps=steps)
        found = [dev_run(dataclasses.replace(run, method=method)) for run in runs]
        row = {"learning_rate": rate, "max_steps": steps, "seeds": [item["seed"] for item in found]}
        for rate_name in (*summary.RATES, "reasoning_loss"):
            row |= summary.spread(rate_name, [item[rate_name] for item in found])
        tried.append(row | {"shortfall": round(summary.shortfall(found), 2)})
        click.echo(f"{name}: {tried[-1]}", err=True)
    return {"method": name, "tried": tried, "chosen": min(tried, key=lambda row: row["shortfall"])}


def graded_relation(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """Shift against reasoning loss over the graded sets that were run."""
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for name in GRADED:
        for result in results.get(name, ()):
            lost = summary.lost_items(result["base"], result["end"])
            by_seed.setdefault(result["seed"], []).append((result["shift"], 100 * sum(lost) / len(lost)))
    return summary.relation(list(by_seed.values())) if by_seed else None


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the folder's lock: two tables at work in one folder would train in each other's files.

    Raises:
        click.ClickException: somebody else holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"{work} is in use by another table, or by what a killed one left running; wait, or name another --work"
            ) from None
        yield


names_of = listed(("base", *METHODS))


def grid_of(_: click.Context, __: click.Parameter, value: str | None) -> list[tuple[float, int]]:
    """``1e-3x80,...`` as learning rates and steps."""
    try:
        pairs = [pair.split("x") for pair in (value or "").split(",") if pair]
        return [(float(rate), int(steps)) for rate, steps in pairs]
    except ValueError:
        raise click.BadParameter(f"{value!r}; write learning rate x steps, as in 7e-4x60,1e-3x80") from None


@click.command()
@click.option("--seeds", default=5, show_default=True, help="How many alignment seeds.")
@click.option("--first-seed", default=0, show_default=True)
@click.option("--methods", "names", callback=names_of, default=",".join(("base", *METHODS)), help="Comma-separated.")
@click.option("--grid", callback=grid_of, default=None, help="Choose among these settings on dev; no test run.")
@click.option("--bases", type=click.Path(path_type=Path), default=HERE.parent / "outputs" / "lab_bases")
@click.option("--work", type=click.Path(path_type=Path), default=HERE.parent / "outputs" / "lab_table")
@click.option("--json", "target", default="-", show_default=True, help="Where the line of JSON goes.")
def main(
    seeds: int,
    first_seed: int,
    names: list[str],
    grid: list[tuple[float, int]],
    bases: Path,
    work: Path,
    target: str,
) -> None:
    """Print the table in markdown, then one line of JSON."""
    work, bases = work.absolute(), bases.absolute()
    numbers = range(first_seed, first_seed + seeds)
    if grid:  # settings are chosen on the shipped base alone, the others stay unseen: seeds 0, 3, ...
        numbers = range(first_seed * BASES, (first_seed + seeds) * BASES, BASES)
    preload()
    with alone(work):
        if grid:
            runs = {name: [Run(name, METHODS[name], seed, work, bases) for seed in numbers] for name in names}
            payload: dict[str, Any] = {"choices": [choose(name, grid, runs[name]) for name in names]}
        else:
            results = collect(names, numbers, work, bases)
            rows = [summary.table_row(name, found) for name, found in results.items()]
            click.echo(summary.markdown(rows))
            payload = {"rows": rows, "shift_and_loss": graded_relation(results)}
    with click.open_file(target, "w", encoding="utf-8") as out:
        out.write(json.dumps(payload) + "\n")


def collect(names: Sequence[str], numbers: Sequence[int], work: Path, bases: Path) -> dict[str, list[dict[str, Any]]]:
    """All runs, seed by seed, so that a table cut short has every method on its first seeds."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in numbers:
        for name in names:
            if name == "base":
                results[name].append(base_result(Run(name, METHODS["vanilla"], seed, work, bases)))
                continue
            result = one_run(Run(name, METHODS[name], seed, work, bases))
            results[name].append(result)
            told = {rate: result["end"][rate] for rate in summary.RATES} | {
                key: result[key] for key in ("equal_step", "usable_step")
            }
            click.echo(f"{name} seed {seed}: {told}", err=True)
    return results


if __name__ == "__main__":
    main()
