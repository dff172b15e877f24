"""Top and end of the report: the run in four figures, and everything that decided it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from axolotl_safety.data.types import UNLABELLED

from .reading import Stage


class Tile(NamedTuple):
    """One figure and what it is."""

    name: str
    value: str
    note: str


class Block(NamedTuple):
    """A list of facts; ``code`` where they are hashes and names."""

    title: str
    facts: list[tuple[str, str]]
    code: bool = False


def headline(stage: Stage) -> list[Tile]:
    """The run in a few figures, over all dataset entries."""
    rows = [row for entry in stage.entries for row in entry.rows]
    trained = [row for row in rows if row["status"] != "rejected"]
    labels = Counter(row["label"] for row in trained)
    tiles = [
        Tile(
            "Trained on",
            f"{len(trained):,}",
            f"of {len(rows):,} rows: {labels['harmful']:,} harmful, {labels['benign']:,} benign"
            + (f", {labels[UNLABELLED]:,} without a label" if labels[UNLABELLED] else ""),
        )
    ]
    asked = sum(entry.manifest["funnel"]["asked"] for entry in stage.entries)
    if asked:
        accepted = sum(entry.manifest["funnel"]["accepted_candidates"] for entry in stage.entries)
        tiles.append(
            Tile("Completions accepted", f"{100 * accepted / asked:.1f} %", f"{accepted:,} of {asked:,} asked for")
        )
    pairs = [
        (row["nll_reference"], row["nll_accepted"])
        for row in trained
        if None not in (row["nll_reference"], row["nll_accepted"])
    ]
    after = [row["nll_accepted"] for row in trained if row["nll_accepted"] is not None]
    if pairs:
        before, now = np.mean(pairs, axis=0)
        tiles.append(
            Tile(
                "Shift, before and after",
                f"{before:.2f} → {now:.2f}",
                f"nats per token, {len(pairs):,} rows with a reference",
            )
        )
    elif after:
        tiles.append(Tile("NLL of what is trained on", f"{np.mean(after):.2f}", "nats per token at the raw prompt"))
    tokens = sum(row["response_tokens"] for row in trained)
    tiles.append(
        Tile("Tokens trained", f"{tokens:,}", f"{tokens / max(1, len(trained)):,.0f} per row, without prompts")
    )
    return tiles


def notes(stage: Stage) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    guards = {guard["name"]: guard["heuristic"] for entry in stage.entries for guard in entry.manifest["guards"]}
    if any(guards.values()):
        names = ", ".join(name for name, heuristic in guards.items() if heuristic)
        found.append(f"Guard {names} is a heuristic: it looks for refusals and judges no content.")
    generated = [entry for entry in stage.entries if entry.manifest["method"] != "vanilla"]
    if generated and not guards:
        found.append("No guard judged these responses.")
    labels = {label for entry in stage.entries for label in entry.manifest["labels"]}
    if generated and "benign" not in labels:
        found.append("No benign row is trained on: a model trained on refusals alone tends to refuse everything.")
    unlabelled = sum(entry.manifest.get("unlabelled", {}).get("taken", 0) for entry in stage.entries)
    if unlabelled:
        found.append(f"{unlabelled:,} rows had no label: the guard alone decided on them, and they are out of the KL.")
    unknown = sum(entry.manifest.get("refusal_unknown", 0) for entry in stage.entries)
    if unknown:
        found.append(f"In {unknown:,} rows the refusal detector does not know the answer's language well enough.")
    kept = sum(entry.manifest["funnel"]["fallback"] for entry in stage.entries)
    if kept:
        share = 100 * kept / max(1, sum(entry.manifest["funnel"]["trained"] for entry in stage.entries))
        found.append(f"{kept:,} rows ({share:.1f} %) keep the original response because no rewrite was accepted.")
    return found


def blocks(stage: Stage) -> list[Block]:
    """Everything that decided the result, grouped."""
    first = stage.entries[0].manifest
    model = {name: value for name, value in first["model"].items() if value not in (None, False)}
    settings = [("seed", str(first["seed"])), ("choice", first["choice"]), ("sequence_len", str(first["sequence_len"]))]
    for method, sampling in first["sampling"].items():
        settings.append((f"{method} sampling", ", ".join(f"{name} {value}" for name, value in sampling.items())))
    guards = [(guard["name"], "heuristic" if guard["heuristic"] else "model") for guard in first["guards"]]
    guards += [("settings", _flat(one)) for one in first["guard_settings"]]
    found = [Block("Model", [(name, str(value)) for name, value in model.items()]), Block("Settings", settings)]
    found += [Block("Guards", guards)] if guards else []
    for method in first["sampling"]:
        said = [(name, _flat(value)) for name, value in first[method].items() if value is not None]
        found.append(Block(f"Method {method}", said))
    if first["prompts"]:
        found.append(Block("Prompts, by the hash of their text", list(first["prompts"].items()), True))
    for entry in stage.entries:
        source = entry.manifest["source"]
        facts = [("method", entry.manifest["method"]), ("read as", source["adapter"]), ("rows", f"{source['rows']:,}")]
        if "before_weight" in source:
            facts.append(("rows before weight", f"{source['before_weight']:,}"))
        facts += [("sha256 of the source", source["sha256"]), ("hash of the training set", entry.manifest["hash"])]
        found.append(Block(f"Dataset {source['path']}", facts, True))
    found += [Block("Merged models", list(stage.merges.items()), True)] if stage.merges else []
    return [*found, Block("Versions", list(first["versions"].items()))]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(one)}" for name, one in value.items() if one is not None) or "default"
    if isinstance(value, (list, tuple)):
        return ", ".join(_flat(one) for one in value)
    return str(value)
