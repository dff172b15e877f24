"""The table's methods as Axolotl configs: a YAML of yaml/, and what a method changes in it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .bases import ROOT, on_base

FAR = "examples/lab/data/direct_refusal.jsonl"
NEARER = "examples/lab/data/r1_act.jsonl"
MIXED = "examples/lab/data/safechain.jsonl"

Config = dict[str, Any]


def recipe(name: str) -> Config:
    """One of the YAMLs in yaml/."""
    return yaml.safe_load((ROOT / "yaml" / f"{name}.yml").read_text(encoding="utf-8"))


def merged(base: Config, changes: Config) -> Config:
    """``base`` with ``changes`` put in, block by block."""
    blocks = {key: merged(base.get(key) or {}, value) for key, value in changes.items() if isinstance(value, dict)}
    return {**base, **changes, **blocks}


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        recipe: the YAML in yaml/ that it starts from.
        learning_rate: instead of the YAML's.
        max_steps: likewise.
        harmful: the source of the harmful rows instead of the YAML's; it is then followed by the benign half.
        benign: whether there is a benign half: the 200 benign prompts, answered by the base itself.
        original: share of the harmful rows that are trained on as they are, in percent, instead of being rewritten.
        rows: how many harmful and how many benign rows, drawn by the seed; None is all.
        recover: whether there are recovery rows beside them, as in yaml/lab_recover.yml.
        safety: changes of the YAML's section.
    """

    recipe: str
    learning_rate: float
    max_steps: int
    harmful: str | None = None
    benign: bool = True
    original: int | None = None
    rows: int | None = None
    recover: bool = False
    safety: Config = field(default_factory=dict)


# Hinges behind which the model goes on, for thoughts of harmful prompts and for thoughts that refused a benign one.
GOING_ON = {"hinges": ["decide", "refuse"], "benign_hinges": ["harmless", "help"], "n": 4}
# Learning rate and steps: chosen on the development split of the shipped base by the rule in lab_table.py.
METHODS: dict[str, Method] = {
    "vanilla": Method("lab_vanilla", 1e-3, 80, benign=False),
    "vanilla_benign": Method("lab_vanilla", 2e-3, 100, FAR),
    "vanilla_long": Method("lab_vanilla", 1e-3, 80, NEARER, benign=False),
    "vanilla_long_benign": Method("lab_vanilla", 2e-3, 100, NEARER),
    "dgr": Method("lab_dgr", 1e-3, 100),
    "dgr_harmful_only": Method("lab_dgr", 7e-4, 60, benign=False),
    "dgr_long": Method("lab_dgr", 1e-3, 100, NEARER),
    "dgr_10": Method("lab_dgr", 1e-3, 100, FAR, rows=10),
    "dgr_30": Method("lab_dgr", 1e-3, 100, FAR, rows=30),
    "dgr_100": Method("lab_dgr", 1e-3, 100, FAR, rows=100),
    "dgr_fb25": Method("lab_dgr", 1e-3, 100, original=25),
    "dgr_fb50": Method("lab_dgr", 1e-3, 100, original=50),
    "dgr_fb75": Method("lab_dgr", 1e-3, 100, original=75),
    "dgr_fb100": Method("lab_dgr", 1e-3, 100, original=100),
    "thinksafe": Method("lab_thinksafe", 7e-4, 100),
    "thinksafe_harmful_only": Method("lab_thinksafe", 7e-4, 60, benign=False),
    "thinksafe_kl": Method("lab_thinksafe_kl", 7e-4, 100),
    "thinksafe_10": Method("lab_thinksafe", 1e-3, 100, MIXED, rows=10),
    "thinksafe_30": Method("lab_thinksafe", 1e-3, 100, MIXED, rows=30),
    "thinksafe_100": Method("lab_thinksafe", 1e-3, 100, MIXED, rows=100),
    "dgr_recover": Method("lab_dgr", 1e-3, 100, recover=True),
    "thinksafe_recover": Method("lab_thinksafe", 1e-3, 100, recover=True),
    "thinksafe_continue": Method("lab_thinksafe", 1e-3, 100, recover=True, safety={"recover": GOING_ON}),
    "grpo": Method("lab_grpo", 2e-3, 100),
}
GRADED = ("dgr", "dgr_fb25", "dgr_fb50", "dgr_fb75", "dgr_fb100")  # one setting, only the rows differ


def graded_rows(lines: Sequence[str], share: int, seed: int) -> tuple[list[str], list[str]]:
    """Which rows stay as they are, and which are rewritten; a larger share keeps every row of a smaller one.

    Args:
        lines: the source's rows.
        share: of the rows that stay, in percent.
        seed: of the draw.

    Returns:
        The original rows and the others, both in the source's order.
    """
    places = list(range(len(lines)))
    random.Random(f"{seed} graded").shuffle(places)
    kept = set(places[: round(share * len(lines) / 100)])
    return [lines[at] for at in sorted(kept)], [line for at, line in enumerate(lines) if at not in kept]


def _entry(path: str, kind: str, **safety: Any) -> Config:
    return {"path": path, "type": f"axolotl_safety.{kind}"} | ({"safety": safety} if safety else {})


def _datasets(method: Method, config: Config, seed: int, base: Path, folder: Path) -> list[Config]:
    """The dataset entries; graded rows are written into ``folder``."""
    first = config["datasets"][0]
    kind = first["type"].rpartition(".")[2]
    rows = {"max_rows": method.rows} if method.rows else {}
    ways_back = recipe("lab_recover")["datasets"][1:] if method.recover else []
    if kind == "grpo" or (kind == "thinksafe" and method.benign and not method.rows):
        return on_base(config["datasets"] + ways_back, base)  # one file holds both halves
    if method.original is not None:
        source = on_base(first["path"], base)
        parts = graded_rows(Path(source).read_text(encoding="utf-8").splitlines(True), method.original, seed)
        entries = []
        for name, part, lines in zip(("original", "rewritten"), ("vanilla", "dgr"), parts, strict=True):
            if lines:
                (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
                entries.append(_entry(str(folder / f"{name}.jsonl"), part))
    else:
        only = {"only": "harmful"} if kind == "thinksafe" else {}
        entries = [_entry(method.harmful or first["path"], kind, **only, **rows)]
    if method.benign:
        half = recipe("lab_dgr")["datasets"][1]
        entries.append(half | {"safety": half["safety"] | rows})
    return on_base(entries + ways_back, base)


def config_of(method: Method, seed: int, base: Path, folder: Path, journal: Path, every: int) -> Config:
    """The whole config of a run.

    Args:
        method: what to run.
        seed: of the data stage's draws and of training's order.
        base: folder with ``model/``, ``guard/`` and ``data/``.
        folder: of the run; graded rows are written there.
        journal: the stage's work_dir, shared by the methods of a seed: what two of them ask for is made once.
        every: steps between checkpoints.
    """
    config = recipe(method.recipe)
    folder.mkdir(parents=True, exist_ok=True)
    config["datasets"] = _datasets(method, config, seed, base, folder)
    if method.benign and method.recipe == "lab_vanilla":  # what that YAML lacks for a stage that generates
        config["safety"] |= {key: recipe("lab_dgr")["safety"][key] for key in ("engine", "guard", "sampling")}
    if method.recover:
        config["safety"]["recover"] = recipe("lab_recover")["safety"]["recover"]
    config = on_base(merged(config, {"safety": method.safety}), base)
    config["safety"] |= {"seed": seed, "work_dir": str(journal)}
    checkpoints = {"save_strategy": "steps", "save_steps": every, "save_only_model": True, "save_total_limit": 10_000}
    places = {"output_dir": str(folder / "model"), "dataset_prepared_path": str(folder / "prepared")}
    setting = {"learning_rate": method.learning_rate, "max_steps": method.max_steps, "seed": seed}
    return config | checkpoints | places | setting
