"""What the steps left, as one JSON object without any text, a table and a figure."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lablib.figures import kept

from axolotl_safety.commands.evaluate.statistics import Estimate, paired_difference, rate
from axolotl_safety.pipeline.manifest import versions

from .arms import KIND
from .recipes import ARMS
from .steps import Found, Run

RATES = {"harm": "refusal", "over_refusal": "over_refusal", "reasoning": "reasoning"}
NAMES = {
    "instruct": "the instruct model",
    "own": "reasoner, own solutions",
    "human": "reasoner, human solutions",
    "star1": "vanilla, STAR-1",
    "direct": "vanilla, DirectRefusal-style",
    "dgr": "DGR",
    "thinksafe": "ThinkSafe",
}


def _points(found: Estimate) -> Found:
    return {"value": round(100 * found.value, 1), "interval": [round(100 * e, 1) for e in (found.low, found.high)]}


def _rates(outcomes: Found) -> Found:
    figures: Found = {}
    for axis, name in RATES.items():
        known = [value for value in outcomes[axis].values() if value is not None]
        figures[name] = _points(rate(np.array(known)[:, None])) | {"n": len(known)}
    return figures


def _lost(before: Found, after: Found, axis: str) -> Found:
    """How much less often an outcome occurs, on the prompts that both models were asked."""
    shared = [key for key in before[axis] if None not in (before[axis][key], after[axis].get(key))]
    columns = [np.array([one[axis][key] for key in shared])[:, None] for one in (before, after)]
    found, p_value, test = paired_difference(*columns)
    return _points(found) | {"n": len(shared), "p_value": round(p_value, 4), "test": test}


def collect(run: Run, arms: Sequence[str]) -> Found:
    """Everything that is there; steps that were not made are left out."""

    def result(name: str) -> Any:
        found = kept(run.out / name / "done.json")
        return found and found["result"]

    base_of = {"instruct": None, "own": "instruct", "human": "instruct"}
    models: Found = {}
    outcomes: Found = {}
    for name, before in base_of.items():
        if found := result(f"eval/{name}"):
            outcomes[name] = found["outcomes"]["base"]
            models[name] = _row(name, outcomes[name], outcomes.get(before))
    for path in sorted((run.out / "eval").glob("*-r*-*/done.json")):
        name, rank, step = path.parent.name.split("-")
        (found,) = [one for key, one in result(f"eval/{path.parent.name}")["outcomes"].items() if key != "base"]
        outcomes[path.parent.name] = found
        row = _row(name, found, outcomes.get(KIND)) | {"rank": int(rank[1:]), "step": int(step)}
        models[path.parent.name] = row | {"rows": result(f"arm/{name}-{rank}")}
    stage = {name: found["entries"] for name in ("dgr", "thinksafe") if (found := result(f"stage/{name}"))}
    spent = {
        str(path.parent.relative_to(run.out)): {key: kept(path)[key] for key in ("seconds", "cpu_seconds")}
        for path in sorted(run.out.glob("**/done.json"))
    }
    return {
        "model": run.model.name,
        "sizes": asdict(run.sizes),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "warmup": result("sampled"),
        "models": models,
        "shift": {name: found for name in arms if (found := result(f"shift/{name}"))},
        "stage": stage,
        "spent": spent,
        "outcomes": outcomes,
    }


def _row(name: str, outcomes: Found, before: Found | None) -> Found:
    row: Found = {"name": name, **_rates(outcomes)}
    if before is not None:
        row |= {"tax": _lost(before, outcomes, "reasoning"), "refusal_lost": _lost(before, outcomes, "harm")}
    return row


def machine() -> Found:
    """Processor, and what of it counts here."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = said.get("flags", "").split()
    wanted = ("avx512f", "avx512_bf16", "amx_bf16")
    return {
        "cpu": said.get("model name", platform.processor()),
        "cores": sum(line.startswith("processor") for line in lines),
        "flags": [flag for flag in wanted if flag in flags],
    }


def _shown(found: Found | None) -> str:
    return f"{found['value']:.0f} [{found['interval'][0]:.0f}, {found['interval'][1]:.0f}]" if found else ""


def table(found: Found) -> str:
    """Rows of models: refusal, over-refusal, reasoning, tax and shift, with 95 % intervals."""
    heads = ("model", "rank", "step", "refusal", "over-refusal", "GSM8K", "tax", "shift (nats)")
    lines = []
    order = ["instruct", "human", "own", *ARMS]
    for row in sorted(found["models"].values(), key=lambda one: (order.index(one["name"]), one.get("step", 0))):
        shift = found["shift"].get(row["name"])
        cells = [NAMES[row["name"]], str(row.get("rank", "")), str(row.get("step", ""))]
        cells += [_shown(row[name]) for name in ("refusal", "over_refusal", "reasoning")]
        lines.append([*cells, _shown(row.get("tax")), f"{shift['nats']:.2f} {shift['interval']}" if shift else ""])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


def stage_table(found: Found) -> str:
    """Per method and rung: harmful rows tried and accepted, candidates and why they were turned down."""
    lines = []
    for method, entries in found["stage"].items():
        for rung, row in entries[0]["rungs"].items():
            share = f"{row['accepted']} of {row['rows']}"
            lines.append(
                [NAMES[method], rung, share, str(row["candidates"]), f"{row['nll']:.2f}" if row["nll"] else ""]
            )
        reasons = ", ".join(f"{name} {count}" for name, count in entries[0]["candidate_reasons"].items())
        lines.append([NAMES[method], "all, candidates by reason", reasons, "", ""])
    heads = ("method", "rung", "rows accepted", "candidates", "NLL (nats)")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines))


_COLOURS = {"star1": "#b03a2e", "direct": "#d68910", "dgr": "#1f618d", "thinksafe": "#1e8449"}


def picture(found: Found) -> str:
    """An SVG: tax against refusal, from the reasoner through the checkpoints to the end, one line per method."""
    start = found["models"].get(KIND)
    rows = [row for row in found["models"].values() if row["name"] in _COLOURS and "tax" in row]
    if not start or not rows:
        return ""
    taxes = [0.0, *(row["tax"]["value"] for row in rows)]
    low, high = min(-5.0, *taxes) - 2, max(10.0, *taxes) + 2

    def place(refusal: float, tax: float) -> tuple[float, float]:
        return 60 + 4.8 * refusal, 30 + 300 * (high - tax) / (high - low)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="400" font-family="sans-serif" font-size="12">'
    ]
    parts.append('<rect width="640" height="400" fill="white"/>')
    for refusal in range(0, 101, 20):
        x, y = place(refusal, low)
        parts.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{refusal}</text>')
        parts.append(f'<line x1="{x:.0f}" y1="30" x2="{x:.0f}" y2="330" stroke="#ddd"/>')
    step = 5 if high - low < 40 else 10
    for tax in range(int(np.ceil(low / step)) * step, int(high) + 1, step):
        x, y = place(0, tax)
        parts.append(f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{tax}</text>')
        parts.append(
            f'<line x1="{x:.0f}" y1="{y:.0f}" x2="540" y2="{y:.0f}" stroke="{"#888" if tax == 0 else "#ddd"}"/>'
        )
    parts.append('<text x="300" y="375" text-anchor="middle">refusal of XSTest-unsafe, %</text>')
    parts.append('<text x="16" y="180" text-anchor="middle" transform="rotate(-90 16 180)">safety tax, points</text>')
    for at, (name, colour) in enumerate(_COLOURS.items()):
        own = sorted((row for row in rows if row["name"] == name), key=lambda row: row["step"])
        points = [place(start["refusal"]["value"], 0.0)]
        points += [place(row["refusal"]["value"], row["tax"]["value"]) for row in own]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points[1:]]
        parts.append(f'<text x="400" y="{46 + 16 * at}" fill="{colour}">{NAMES[name]}</text>')
    x, y = place(start["refusal"]["value"], 0.0)
    parts.append(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="black"/><text x="{x + 8:.0f}" y="{y - 8:.0f}">reasoner</text>'
    )
    return "\n".join([*parts, "</svg>", ""])


def write(found: Found, folder: Path) -> None:
    """The JSON and the figure, in a folder that may be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{found['model']}-seed{found['sizes']['seed']}"
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if drawn := picture(found):
        (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
