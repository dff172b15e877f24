"""The lab's recipes over seeds: `axolotl train` on the YAMLs in yaml/ and on variants of their safety section.

    python benchmarks/lab_recipes.py --arm dgr --arm thinksafe --seeds 5

A seed decides the data stage's draws and the training's order. Every finished run is kept under --work and not made
again; arms share one journal per seed, so that a completion that two of them ask for is made once.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "examples" / "lab"
sys.path[:0] = [str(ROOT / "benchmarks"), str(LAB), str(ROOT)]

from lablib.methods import merged, recipe  # noqa: E402
from lablib.summary import interval  # noqa: E402

# What the vanilla YAML lacks for a benign half of its own: foreign refusals, self-written benign answers.
_ANSWERING = recipe("lab_dgr")["safety"]

# Arm: the YAML it starts from, and what it changes in the section `safety:`. `_benign` adds lab_dgr.yml's second
# dataset, `_harmful_only` trains without it.
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "vanilla": ("lab_vanilla", {}),
    "vanilla_benign": ("lab_vanilla", {key: _ANSWERING[key] for key in ("engine", "guard", "sampling")}),
    "dgr_harmful_only": ("lab_dgr", {}),
    "dgr": ("lab_dgr", {}),  # n 4, lowest_nll
    "dgr_first": ("lab_dgr", {"dgr": {"n": 1}, "choice": "first"}),
    "dgr_resample": ("lab_dgr", {"choice": "resample"}),
    "dgr_structured": ("lab_dgr", {"dgr": {"prompt": "structured"}}),
    "dgr_auto": ("lab_dgr", {"dgr": {"prompt": "auto"}}),
    "dgr_steer": ("lab_dgr", {"dgr": {"n": 1, "retries": 0, "on_failure": "steer"}, "choice": "first"}),
    "thinksafe": ("lab_thinksafe", {}),
    "thinksafe_kl": ("lab_thinksafe_kl", {}),
    "thinksafe_none_refuse": ("lab_thinksafe", {"thinksafe": {"ladder": ["none", "refuse"]}}),
    "thinksafe_structured": ("lab_thinksafe", {"thinksafe": {"ladder": ["structured"], "attempts": 6}}),
    "thinksafe_structured_refuse": ("lab_thinksafe", {"thinksafe": {"ladder": ["structured", "refuse"]}}),
    "thinksafe_auto": ("lab_thinksafe", {"thinksafe": {"ladder": ["auto"]}}),
    "thinksafe_n4_first": ("lab_thinksafe", {"thinksafe": {"n": 4}}),
    "thinksafe_n4_lowest_nll": ("lab_thinksafe", {"thinksafe": {"n": 4}, "choice": "lowest_nll"}),
    "thinksafe_n4_resample": ("lab_thinksafe", {"thinksafe": {"n": 4}, "choice": "resample"}),
}
RATES = ("refusal_seen", "refusal_unseen", "over_refusal", "reasoning")


def train(arm: str, seed: int, folder: Path, journal: Path, options: dict[str, Any]) -> float:
    """Run `axolotl train`; returns its wall time in seconds.

    Raises:
        click.ClickException: it failed; the log's place is named.
    """
    name, changes = ARMS[arm]
    config = recipe(name)
    config = merged(config, {"safety": changes}) | options
    if arm.endswith("_benign"):
        config["datasets"] += recipe("lab_dgr")["datasets"][1:]
    if arm.endswith("_harmful_only"):
        config["datasets"] = config["datasets"][:1]
    config["safety"] |= {"work_dir": str(journal), "seed": seed}
    config |= {"seed": seed, "output_dir": str(folder / "model"), "dataset_prepared_path": str(folder / "prepared")}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    binaries = Path(sys.executable).parent
    environ = dict(os.environ) | {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environ |= {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = [str(binaries / "axolotl"), "train", str(folder / "config.yml"), "--launcher", "python"]
    started = time.monotonic()
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        code = subprocess.run(command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        raise click.ClickException(f"{arm}, seed {seed}: exit code {code}, see {folder / 'log.txt'}")
    return time.monotonic() - started


def stage_figures(journal: Path) -> dict[str, Any]:
    """What the last data stage in this work_dir says of its harmful rows (all entries together)."""
    latest = json.loads((journal / "datasets" / "latest.json").read_text())
    manifests = [json.loads((journal / "datasets" / name / "manifest.json").read_text()) for name in latest.values()]
    harmful = [
        part["labels"]["harmful"]
        for manifest in manifests
        for part in manifest["rungs"].values()
        if "harmful" in part["labels"]
    ]
    first = manifests[0]
    asked = sum(part["candidates"] for part in harmful)
    kept = sum(manifest["labels"].get("harmful", 0) for manifest in manifests)
    figures = {"rows": kept, "asked": asked, "rungs": first["rungs"], "auto": first["auto"]}
    nll = [(part["nll"], part["accepted"]) for part in harmful if part["nll"] is not None]
    figures["nll"] = sum(value * count for value, count in nll) / kept if kept else None
    figures["candidate_acceptance"] = sum(part["accepted_candidates"] for part in harmful) / asked if asked else None
    figures["resampling"] = first["resampling"]
    return figures | diversity(journal / "datasets" / latest["0"] / "rows.parquet")


def diversity(rows: Path) -> dict[str, Any]:
    """Mean response length in tokens and the share of distinct answers among the accepted harmful rows."""
    import pyarrow.parquet as pq

    kept = [row for row in pq.read_table(rows).to_pylist() if row["status"] == "accepted" and row["label"] == "harmful"]
    if not kept:
        return {"length": None, "distinct": None}
    return {
        "length": statistics.mean(len(row["response_token_ids"]) for row in kept),
        "distinct": len({row["answer"] for row in kept}) / len(kept),
    }


def measure(adapter: Path | None, split: str) -> list[dict[str, Any]]:
    """Greedy outcomes on a split of the base, or of the base with an adapter merged in memory."""
    from labkit.evaluation import evaluate, load_split
    from labkit.models import load_model

    model, tokenizer = load_model(str(LAB / "model"), str(adapter) if adapter else None)
    return evaluate(model, tokenizer, load_split(split))


def one_run(
    arm: str, seed: int, split: str, work: Path, base: list[dict[str, Any]], options: dict[str, Any]
) -> dict[str, Any]:
    """Train and measure, unless the result is there already."""
    from labkit.evaluation import correct_answers, summarise

    tag = "".join(f"-{key}={value}" for key, value in sorted(options.items()))
    folder = work / f"{arm}-seed{seed}{tag}"
    kept = folder / f"result-{split}.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    seconds, figures = None, None
    if not (folder / "stage.json").is_file():
        journal = work / f"safety-seed{seed}"
        seconds = train(arm, seed, folder, journal, options)
        figures = stage_figures(journal)
        (folder / "stage.json").write_text(json.dumps(figures))
    figures = figures or json.loads((folder / "stage.json").read_text())
    items = measure(folder / "model", split)
    lost = [int(a) - int(b) for a, b in zip(correct_answers(base), correct_answers(items), strict=True)]
    result = {"arm": arm, "seed": seed, "split": split, **summarise(items), "seconds": seconds, "stage": figures}
    result |= {"lost": lost, "reasoning_loss": 100 * sum(lost) / len(lost)}
    kept.write_text(json.dumps(result))
    return result


def summary(arm: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over the seeds of one arm."""
    row: dict[str, Any] = {"arm": arm, "seeds": len(results)}
    for rate in (*RATES, "reasoning_loss"):
        values = [result[rate] for result in results]
        row[rate] = round(statistics.mean(values), 2)
        row[f"{rate}_sd"] = round(statistics.stdev(values), 2) if len(values) > 1 else None
        row[f"{rate}_worst"] = min(values) if rate.startswith("refusal") or rate == "reasoning" else max(values)
    row["reasoning_loss_95"] = [round(value, 2) for value in interval([result["lost"] for result in results])]
    stages = [result["stage"] for result in results]
    for key in ("rows", "asked", "candidate_acceptance", "nll", "length", "distinct"):
        known = [stage[key] for stage in stages if stage[key] is not None]
        row[key] = round(statistics.mean(known), 3) if known else None
    drawn = [stage["resampling"] for stage in stages if stage["resampling"]["rows"]]
    row["effective_sample_size"] = (
        round(statistics.mean(part["mean_effective_sample_size"] for part in drawn), 2) if drawn else None
    )
    row["n"] = results[0]["n"]
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """Two tables: what the models do, and what they were trained on."""

    def shown(value: Any, digits: int = 1) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    lines = [
        "| arm | refusal seen | unseen | over-refusal | reasoning | reasoning lost [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["reasoning_loss_95"]
        cells = [f"{shown(row[rate])} ± {shown(row[f'{rate}_sd'])}" for rate in RATES]
        lines.append(f"| {row['arm']} | {' | '.join(cells)} | {shown(row['reasoning_loss'])} [{low:.1f}, {high:.1f}] |")
    lines += [
        "",
        "| arm | harmful rows | asked | candidates accepted | NLL at the raw prompt | tokens | distinct answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accepted = None if row["candidate_acceptance"] is None else 100 * row["candidate_acceptance"]
        distinct = None if row["distinct"] is None else 100 * row["distinct"]
        lines.append(
            f"| {row['arm']} | {shown(row['rows'], 0)} | {shown(row['asked'], 0)} | {shown(accepted)} % | "
            f"{shown(row['nll'], 3)} | {shown(row['length'])} | {shown(distinct)} % |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--arm", "arms", multiple=True, type=click.Choice(tuple(ARMS)), default=("dgr", "thinksafe"))
@click.option("--seeds", default=5, show_default=True, help="How many.")
@click.option("--first-seed", default=1, show_default=True)
@click.option("--split", type=click.Choice(["dev", "test"]), default="test", show_default=True)
@click.option("--learning-rate", type=float, default=None, help="Instead of the YAML's.")
@click.option("--max-steps", type=int, default=None, help="Instead of the YAML's.")
@click.option("--work", type=click.Path(path_type=Path), default=ROOT / "outputs" / "lab_recipes", show_default=True)
def main(
    arms: tuple[str, ...],
    seeds: int,
    first_seed: int,
    split: str,
    learning_rate: float | None,
    max_steps: int | None,
    work: Path,
) -> None:
    """Train every arm on every seed, print two tables, and JSON as the last line."""
    import torch

    torch.set_num_threads(1)
    work = work.absolute()
    options = {"learning_rate": learning_rate, "max_steps": max_steps}
    options = {key: value for key, value in options.items() if value is not None}
    base = measure(None, split)
    rows = []
    for arm in arms:
        results = []
        for seed in range(first_seed, first_seed + seeds):
            results.append(one_run(arm, seed, split, work, base, options))
            shown = {rate: results[-1][rate] for rate in (*RATES, "reasoning_loss")}
            click.echo(f"{arm} seed {seed}: {shown}", err=True)
        rows.append(summary(arm, results))
    click.echo(markdown(rows))
    click.echo(json.dumps({"rows": rows, "split": split, "seeds": seeds, **options}))


if __name__ == "__main__":
    main()
