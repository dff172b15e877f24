"""The dataset card: what the rows are, how they came about, whose texts they started from."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from .reading import Stage

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_UNKNOWN = "unknown"
_TEMPLATES = Path(__file__).parent / "templates"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card_text(stage: Stage, names: Sequence[str], licences: Mapping[str, str], count: int) -> str:
    """The card with its front matter, for so many accepted rows; sources are named without local folders."""
    first = stage.entries[0].manifest
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # Markdown, and every name goes through `plain`
    environment.filters["plain"] = plain
    labels = Counter(row["label"] for entry in stage.entries for row in entry.rows if own_text(row))
    model = first["model"]
    return environment.get_template("card.md.j2").render(
        front=_front_matter(stage, licences, count),
        count=count,
        labels=dict(sorted(labels.items())),
        model=public_name(str(model["name"])),
        revision=model.get("revision"),
        fingerprint=model["fingerprint"],
        guards=[(public_name(guard["name"]), guard["heuristic"]) for guard in first["guards"]],
        sampling=first["sampling"],
        choice=first["choice"],
        seed=first["seed"],
        prompts=first["prompts"],
        version=first["versions"]["axolotl_safety"],
        entries=[
            {"name": name, "licence": licences[name], **{key: entry.manifest[key] for key in _KEYS}}
            for name, entry in zip(names, stage.entries, strict=True)
        ],
    )


_KEYS = ("method", "funnel", "reasons", "nll", "source")


def own_text(row: Mapping[str, Any]) -> bool:
    """Whether the model wrote what is trained on: not so where the original stands in, or was never rewritten."""
    return row["status"] == "accepted" and row["stage"] != "original"


def public_name(path: str) -> str:
    """A source's or model's name without the folders of this machine."""
    return path if HUB_ID.fullmatch(path) and not Path(path).exists() else Path(path).name or path


def source_licence(name: str) -> str:
    """The licence that a source's own card names; ``unknown`` where none is named or the hub cannot be asked."""
    if not HUB_ID.fullmatch(name):
        return _UNKNOWN
    from huggingface_hub import HfApi

    try:
        card = HfApi(token=os.environ.get("HF_TOKEN") or False).dataset_info(name).card_data
        found = card.get("license") if card else None
    except Exception:  # offline, gone, gated, or no such dataset: all the same to a card
        return _UNKNOWN
    found = ", ".join(map(str, found)) if isinstance(found, list) else found
    return str(found) if found else _UNKNOWN


def _front_matter(stage: Stage, licences: Mapping[str, str], count: int) -> str:
    from huggingface_hub import DatasetCardData

    found = sorted({*licences.values()})
    methods = sorted({entry.manifest["method"] for entry in stage.entries})
    data: dict[str, Any] = {
        "license": found[0]
        if len(found) == 1 and "," not in found[0]
        else "unknown"
        if "unknown" in found
        else "other",
        "task_categories": ["text-generation"],
        "size_categories": [next((name for top, name in _SIZES if count < top), "n>1M")],
        "tags": ["safety", "reasoning", "axolotl-safety", *methods],
        "pretty_name": "Safety data in the model's own distribution",
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train.parquet"}]}],
    }
    return DatasetCardData(**data).to_yaml()


def plain(value: Any) -> str:
    """A name as one line of Markdown that cannot end a table cell, a code span or the front matter."""
    return " ".join(str(value).split()).replace("|", "/").replace("`", "'").replace("<", "(").replace(">", ")")
