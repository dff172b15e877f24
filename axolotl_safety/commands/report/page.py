"""The page: what was read, drawn into one HTML file that needs nothing else and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from axolotl_safety.config.work_dir import REPORT
from axolotl_safety.pipeline.shift import describe
from axolotl_safety.util.errors import StageError
from axolotl_safety.util.files import write_atomically
from axolotl_safety.util.version import __version__

from .figures import Histogram, completion_funnel, histogram, row_funnel, shift_lines
from .provenance import blocks, headline, notes
from .reading import Entry, Stage, read_stage
from .samples import choose_samples, embed

LOG = logging.getLogger(__name__)
LIMIT_BYTES = 5_000_000
_SAMPLE_BYTES = 4_400_000
_CATEGORIES = 20
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(work_dir: Path, path: Path | None = None, texts: bool = True, run: str | None = None) -> Path:
    """Write the report of a work folder's last finished stage, of one run (`run_of`) if that is given.

    The same folder gives the same bytes.

    It goes to ``report.html`` in the work folder unless a path is given; without texts it shows no prompt, no response.

    Raises:
        StageError: no stage has been finished there.
        OSError: the file cannot be written.
    """
    stage = read_stage(work_dir, run)
    page = render(stage, texts)
    path = path or work_dir / REPORT
    write_atomically(path, page)
    return path


def try_report(work_dir: Path, run: str | None = None) -> Path | None:
    """The same at the end of a stage, which a report must never fail."""
    try:
        path = write_report(work_dir, run=run)
    except Exception as error:  # whatever it is: the data is there, and training can begin
        LOG.warning(
            "the report could not be written: %s: %s. Try `axolotl safety-report`.", type(error).__name__, error
        )
        return None
    LOG.info("report: %s", path)
    return path


def render(stage: Stage, texts: bool = True) -> bytes:
    """The page as bytes, below `LIMIT_BYTES`.

    Raises:
        StageError: even without samples it is larger.
    """
    budget = _SAMPLE_BYTES
    while True:
        page = _page(stage, texts, budget).encode("utf-8", "backslashreplace")
        if len(page) < LIMIT_BYTES:
            return page
        if not budget:
            raise StageError(f"the report has {len(page)} bytes without a single sample; {LIMIT_BYTES} is the limit")
        budget = budget // 2 if budget > 1000 else 0


def _page(stage: Stage, texts: bool, budget: int) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= _FILTERS
    css, js = ((_TEMPLATES / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    samples = choose_samples(stage.entries, budget, texts)
    total = sum(len(entry.rows) for entry in stage.entries)
    titles = [str(entry.manifest["source"]["path"]) for entry in stage.entries]
    data = {"texts": texts, "total": total, "entries": titles, "rows": samples}
    return environment.get_template("report.html.j2").render(
        model=stage.entries[0].manifest["model"]["name"],
        sources=list(dict.fromkeys(titles)),
        tiles=headline(stage),
        notes=notes(stage),
        parts=[_part(entry) for entry in stage.entries],
        evaluation=stage.evaluation,
        training=stage.training,
        runs=stage.runs,
        provenance=blocks(stage),
        shown=len(samples),
        total=total,
        texts=texts,
        version=__version__,
        data=Markup(embed(data)),
        css=Markup(css),
        js=Markup(js),
        css_hash=_source_hash(css),
        js_hash=_source_hash(js),
    )


def _source_hash(text: str) -> str:
    """What a content security policy calls a style or script that may stand in the page."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _part(entry: Entry) -> dict[str, Any]:
    """One dataset entry, for the template."""
    manifest = entry.manifest
    trained = [row for row in entry.rows if row["status"] != "rejected"]
    sides = {
        "reference": ("reference", [row["nll_reference"] for row in trained]),
        "trained on": ("accepted", [row["nll_accepted"] for row in trained]),
    }
    categories = _categories(manifest["categories"])
    return {
        "title": manifest["source"]["path"],
        "method": manifest["method"],
        "rows": row_funnel(manifest),
        "completions": completion_funnel(manifest),
        "shift": histogram(sides),
        "shift_lines": shift_lines(manifest["shift"]),
        "rungs": [
            {"name": name, "tried": rung["rows"], "share": rung["acceptance"]}
            | {k: rung[k] for k in ("accepted", "nll")}
            for name, rung in manifest["rungs"].items()
        ],
        "categories": categories[:_CATEGORIES],
        "more_categories": max(0, len(categories) - _CATEGORIES),
        "lengths": _lengths(trained),
    }


def _categories(counted: dict[str, dict[str, int]]) -> list[dict[str, Any]]:
    """The largest first, each with the pieces of its bar."""
    found = []
    for name, count in sorted(counted.items(), key=lambda item: (-item[1]["taken"], item[0])):
        pieces, at = [], 0.0
        for kind in ("accepted", "fallback", "rejected"):
            width = 100 * count[kind] / count["taken"]
            pieces.append({"kind": kind, "at": at, "width": width})
            at += width
        found.append({"name": name, "pieces": pieces, **count})
    return found


def _lengths(trained: Sequence[Any]) -> list[dict[str, Any]]:
    thoughts = [row["thought_tokens"] or 0 for row in trained]
    named = {
        "prompt": [row["prompt_tokens"] for row in trained],
        "thought": thoughts,
        "answer": [row["response_tokens"] - thought for row, thought in zip(trained, thoughts, strict=True)],
    }
    found = []
    for name, values in named.items():
        plot: Histogram | None = histogram({name: ("plain", values)})
        if plot is not None:
            found.append({"name": name, "plot": plot, "found": describe(values), "longest": max(values)})
    return found


def _steps(heights: Sequence[float]) -> str:
    """The outline of bars from 0 to 100, as the path of an SVG with y downwards."""
    width = 100 / len(heights)
    parts = ["M0 100"]
    for index, height in enumerate(heights):
        parts.append(f"V{100 - height * 0.96:g}H{(index + 1) * width:g}")
    return "".join(parts) + "V100Z"


_FILTERS = {
    "count": lambda value: f"{value:,}",
    "percent": lambda value: f"{100 * value:.1f} %",
    "nll": lambda value: f"{value:.3f}",
    "whole": lambda value: f"{value:,.0f}",
    "tick": lambda value: f"{value:,.4g}" if value < 1000 else f"{value:,.0f}",
    "edge": lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
    "bytes": lambda value: "none seen" if value is None else f"{value / 1e6:,.0f} MB",
    "steps": _steps,
    "breakable": lambda text: Markup(str(escape(text)).replace("_", "_<wbr>").replace("/", "/<wbr>")),
    "at": lambda values, index: values[index],
}
