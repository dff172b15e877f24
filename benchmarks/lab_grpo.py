"""What GRPO and ThinkSafe cost on the lab to reach equal refusal: generated tokens and CPU seconds.

    python benchmarks/lab_grpo.py --seed 0 --work outputs/lab_grpo_cost

Both train by `axolotl train` on their YAMLs in yaml/, with a checkpoint every few steps. Each checkpoint answers the
harmful and benign prompts of a split, greedily; the cost at a level is what had been spent when the first checkpoint
reached it. Refusal is cheap while benign prompts are refused as well, so the highest level is asked for once more
together with a limit on over-refusal.

ThinkSafe pays for all its tokens before its first step, GRPO at every step. Seconds leave out the start of the
command (imports, loading), which is the same for both; ThinkSafe's hold its data stage with the start of its engine.
A finished run under --work is not made again.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "examples" / "lab"
sys.path[:0] = [str(LAB), str(ROOT)]

from labkit.evaluation import evaluate, load_split, summarise  # noqa: E402
from labkit.models import load_model  # noqa: E402


@dataclass(frozen=True)
class Cost:
    """What had been spent at a training step: sampled tokens, responses judged by the guard, seconds."""

    tokens: int
    judged: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """A finished training run: its checkpoints by step, and its cost at a step."""

    checkpoints: dict[int, Path]
    cost: Callable[[int], Cost]


def train(name: str, seed: int, every: int, folder: Path) -> tuple[dict[str, Any], str]:
    """Run `axolotl train` on one of the lab's YAMLs, unless that has been done.

    Returns:
        The config and the log.

    Raises:
        click.ClickException: the command failed; the log's place is named.
    """
    config = yaml.safe_load((ROOT / "yaml" / f"{name}.yml").read_text())
    config |= {"output_dir": str(folder / "model"), "dataset_prepared_path": str(folder / "prepared"), "seed": seed}
    config |= {"save_strategy": "steps", "save_steps": every, "save_only_model": True, "logging_steps": 1}
    config["save_total_limit"] = 10_000  # Axolotl keeps four
    config["safety"] |= {"work_dir": str(folder / "safety"), "seed": seed}
    log = folder / "log.txt"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").write_text(yaml.safe_dump(config))
        binaries = Path(sys.executable).parent
        path = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        offline = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [str(binaries / "axolotl"), "train", str(folder / "config.yml"), "--launcher", "python"]
        with open(log, "w", encoding="utf-8") as out:
            environ = {**os.environ, **path, **offline}
            code = subprocess.run(command, cwd=ROOT, env=environ, stdout=out, stderr=subprocess.STDOUT).returncode
        if code:
            raise click.ClickException(f"{name}: exit code {code}, see {log}")
        (folder / "done").touch()
    return config, log.read_text(encoding="utf-8")


def checkpoints(folder: Path) -> dict[int, Path]:
    """Adapters by step, in order."""
    found = {int(path.name.split("-")[1]): path for path in (folder / "model").glob("checkpoint-*")}
    return dict(sorted(found.items()))


def seconds_per_step(config: dict[str, Any], log: str) -> float:
    """Training time by the trainer's own clock, checkpoints included."""
    runtime = re.findall(r"'train_runtime': '?([0-9.]+)", log)[-1]
    return float(runtime) / config["max_steps"]


def run_grpo(seed: int, every: int, folder: Path) -> Run:
    """Train by GRPO; its cost grows with every step."""
    config, log = train("lab_grpo", seed, every, folder)
    found = checkpoints(folder)
    history = json.loads((found[max(found)] / "trainer_state.json").read_text())["log_history"]
    batch = config["micro_batch_size"] * config["gradient_accumulation_steps"]
    lengths = {row["step"]: row["completions/mean_length"] for row in history if "completions/mean_length" in row}
    pace = seconds_per_step(config, log)

    def cost(step: int) -> Cost:
        tokens = sum(length * batch for at, length in lengths.items() if at <= step)
        return Cost(round(tokens), batch * step, pace * step)

    return Run(found, cost)


def run_thinksafe(seed: int, every: int, folder: Path) -> Run:
    """Train by ThinkSafe; all its tokens are paid for before the first step."""
    config, log = train("lab_thinksafe", seed, every, folder)
    (manifest,) = (json.loads(path.read_text()) for path in (folder / "safety").glob("datasets/*/manifest.json"))
    tokens = judged = 0
    for path in (folder / "safety" / "journal").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            tokens += len(record["token_ids"]) if record["kind"] == "completion" else 0
            judged += record["kind"] == "verdict"
    pace = seconds_per_step(config, log)
    return Run(checkpoints(folder), lambda step: Cost(tokens, judged, manifest["seconds"] + pace * step))


Curve = dict[int, tuple[float, float]]  # step: refusal of harmful and of benign prompts, in percent


def refusal_curve(run: Run, split: str) -> Curve:
    """What each checkpoint refuses."""
    sets = {name: rows for name, rows in load_split(split).items() if name in ("harmful_seen", "benign")}
    curve = {}
    for step, adapter in run.checkpoints.items():
        figures = summarise(evaluate(*load_model(LAB / "model", adapter), sets))
        curve[step] = (figures["refusal_seen"], figures["over_refusal"])
        click.echo(f"  step {step}: {curve[step][0]} % of harmful, {curve[step][1]} % of benign refused", err=True)
    return curve


def first_step(curve: Curve, level: float, limit: float) -> int | None:
    """The first checkpoint that reaches a level within a limit of over-refusal, None if none does."""
    return next((step for step, (harmful, benign) in curve.items() if harmful >= level and benign <= limit), None)


def figures_of(run: Run, split: str) -> Callable[[int], dict[str, Any]]:
    """A function that gives a checkpoint's cost and all its figures, measured once."""

    @cache
    def figures(step: int) -> dict[str, Any]:
        found = summarise(evaluate(*load_model(LAB / "model", run.checkpoints[step]), load_split(split)))
        return {"step": step, **asdict(run.cost(step)), **found}

    return figures


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a markdown table."""
    head = "| refusal of at least | method | step | generated tokens | judged | seconds | refusal seen / unseen | "
    lines = [head + "over-refusal | arithmetic |", "|" + "---|" * 9]
    for row in rows:
        found = row["found"]
        if found is None:
            lines.append(f"| {row['level']} | {row['method']} | not reached | | | | | | |")
            continue
        cells = [row["level"], row["method"], found["step"], f"{found['tokens']:,}", f"{found['judged']:,}"]
        cells += [f"{found['seconds']:.0f}", f"{found['refusal_seen']} / {found['refusal_unseen']}"]
        cells += [found["over_refusal"], found["reasoning"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--seed", default=0, show_default=True, help="Of sampling and order.")
@click.option("--level", "levels", multiple=True, type=float, default=(20, 50, 80, 95), help="Refusal in percent.")
@click.option("--limit", default=2.0, show_default=True, help="Over-refusal in percent, for the highest level.")
@click.option("--every", default=5, show_default=True, help="Steps between checkpoints.")
@click.option("--split", type=click.Choice(["dev", "test"]), default="test", show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("outputs/lab_grpo_cost"), show_default=True)
def main(seed: int, levels: tuple[float, ...], limit: float, every: int, split: str, work: Path) -> None:
    """Print the table, then one line of JSON."""
    torch.set_num_threads(1)
    rows, ends = [], {}
    work = work.absolute()
    for method, start in (("ThinkSafe", run_thinksafe), ("GRPO", run_grpo)):
        click.echo(f"{method}, seed {seed}", err=True)
        run = start(seed, every, work / f"{method.lower()}-{seed}")
        curve = refusal_curve(run, split)
        figures = figures_of(run, split)
        wanted = [(f"{level:g} %", level, 100.0) for level in levels]
        wanted.append((f"{max(levels):g} %, over-refusal at most {limit:g} %", max(levels), limit))
        for order, (name, level, most) in enumerate(wanted):
            step = first_step(curve, level, most)
            found = None if step is None else figures(step)
            rows.append({"order": order, "level": name, "method": method, "found": found})
        ends[method] = figures(max(run.checkpoints)) | {"curve": curve}
    rows.sort(key=lambda row: row.pop("order"))
    click.echo(table(rows + [{"level": "(end of training)", "method": name, "found": ends[name]} for name in ends]))
    click.echo(json.dumps({"seed": seed, "split": split, "levels": rows, "end": ends}))


if __name__ == "__main__":
    main()
