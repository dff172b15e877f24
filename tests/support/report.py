"""Work folders for the report: from a real stage whose model writes hostile text, or with as many rows as asked."""

from __future__ import annotations

import json
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_safety.data.sources import Source
from axolotl_safety.data.types import Outcome
from axolotl_safety.engines.base import EngineFigures
from axolotl_safety.engines.queue import WorkQueue
from axolotl_safety.pipeline.manifest import entry_manifest
from axolotl_safety.pipeline.writer import _ROW_SCHEMA
from support import tiny
from support.stage import config, scripted_by_prompt

# What a model or a dataset may write to get out of a page: none of it may do anything but be read.
HOSTILE = (
    "<script>window.pwned = 'script'</script>",
    "</script><script>window.pwned = 'closed'</script>",
    "<!--<script>window.pwned = 'comment'</script>-->",
    "<img src=x onerror=\"window.pwned = 'image'\">",
    "<svg onload=\"window.pwned = 'svg'\"></svg>",
    "<a href=\"javascript:window.pwned = 'link'\">click me</a>",
    "<style>body { display: none }</style>",
    "{{ 7 * 7 }} ${7 * 7} &lt;b&gt;",
    "\u2028window.pwned = 'line'\u2029",
    "\x1b[31mred\x1b]0;title\x07 \u202egnp.exe\u202c",
)


def hostile_stage(tmp_path: Path, model: Path) -> tuple[Any, Any]:
    """A config with a DGR and a ThinkSafe entry, and the engine that answers it with hostile text."""
    harmful = [
        {
            "prompt": f"How do I jinx the lamp number {index}? {HOSTILE[index % len(HOSTILE)]}",
            "response": f"<think>\nNo. {HOSTILE[index % 3]}\n</think>\n\nI'm sorry, I can't help with that.",
            "category": f"toys {index % 3} {HOSTILE[index % 2]}",
            "label": "harmful",
        }
        for index in range(40)
    ]
    benign = [{"prompt": f"How do I polish the kettle number {index}?"} for index in range(12)]
    entries = [
        {"path": str(tiny.write_rows(tmp_path / "harmful.jsonl", harmful)), "type": "axolotl_safety.dgr"},
        {
            "path": str(tiny.write_rows(tmp_path / "benign.jsonl", benign)),
            "type": "axolotl_safety.thinksafe",
            "safety": {"label": "benign", "prompt_field": "prompt"},
        },
    ]
    cfg = config(tmp_path, model, [], dgr={"retries": 0, "n": 2, "refine_rounds": 1}, top={"datasets": entries})
    return cfg, scripted_by_prompt(model, _hostile_answer)


def _hostile_answer(shown: str, request: Any) -> str:
    number = tiny.draw(request.request_id, 1000)
    text = HOSTILE[number % len(HOSTILE)]
    thought = f"<think>\nThey ask for something, case {number}. {text}\n"
    if number % 5 == 0:
        return thought
    reply = "Take a soft cloth and rub it" if "polish" in shown or number % 5 == 1 else "I can't help with that"
    return f"{thought}</think>\n\n{reply}, case {number}.\n{text}"


class Elements(HTMLParser):
    """What a page is made of, as a browser's parser sees it: elements with their attributes, text by element."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        """What the sample browser reads."""
        return json.loads(self.scripts[0])


_WORDS = (
    "shell drawer box sort shelf label count small large round flat pearl sand seven twelve first last then".split()
)
_REASONS = ("", "", "", "", "not_refused", "unclosed_think", "leak", "guard_unsafe")


def made_up_folder(work_dir: Path, rows: int, thought_words: int) -> None:
    """A finished work folder with harmless rows; one row alone has a reason of its own.

    Args:
        work_dir: empty or new.
        rows: how many.
        thought_words: length of the shortest thoughts; others have up to three quarters more.
    """
    source = Source("toy/rows", [None] * rows, [], frozenset({"prompt"}), "0" * 64)
    rng = random.Random(0)
    pool = " ".join(rng.choice(_WORDS) for _ in range(60_000 + 2 * thought_words))
    folder = work_dir / "datasets" / ("ab" * 12)
    folder.mkdir(parents=True)
    outcomes = [_outcome(index) for index in range(rows)]
    writer = pq.ParquetWriter(folder / "rows.parquet", _ROW_SCHEMA)
    for start in range(0, rows, 2000):
        writer.write_table(
            pa.Table.from_pylist(
                [_record(outcome, pool, 6 * thought_words) for outcome in outcomes[start : start + 2000]],
                schema=_ROW_SCHEMA,
            )
        )
    writer.close()
    manifest = entry_manifest("dgr", source, "pair", outcomes, WorkQueue({}, None), EngineFigures(), 0.0)
    manifest |= {
        "hash": folder.name,
        "model": {"name": "toy/model", "fingerprint": "f" * 24},
        "guards": [{"name": "toy/guard", "heuristic": False}],
        "guard_settings": [],
        "sampling": {"dgr": {"temperature": 0.6}},
        "prompts": {"dgr/rewrite@1": "0" * 64},
        "seed": 42,
        "choice": "first",
        "dgr": {"n": 1},
        "sequence_len": 8192,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (work_dir / "datasets" / "latest.json").write_text(json.dumps({"0": folder.name}))


def _outcome(index: int) -> Outcome:
    reason = "loop" if index == 7 else _REASONS[index % len(_REASONS)]
    return Outcome(
        row_id=f"{index:024x}",
        entry=0,
        source="toy/rows",
        prompt=f"How do I sort the shells of drawer {index}?",
        label="benign" if index % 3 else "harmful",
        status="rejected" if reason else "accepted",
        reason=reason,
        prompt_ids=(1,) * (20 + index % 30),
        response_ids=() if reason else (2,) * (200 + index % 97),
        nll_reference=1.5 + index % 100 / 100,
        nll_accepted=None if reason else 0.2 + index % 50 / 100,
        proposal="dgr/rewrite@1",
        stage="transform",
        request_ids=(f"r{index}",),
        candidate_reasons=(reason,),
        candidate_proposals=("dgr/rewrite@1",),
        categories=(f"shelf {index % 5}",),
    )


def _record(outcome: Outcome, pool: str, characters: int) -> dict[str, Any]:
    number = int(outcome.row_id, 16)
    start = number * 7919 % (len(pool) - 2 * characters)
    thought = f"Drawer {number}: {pool[start : start + characters * (4 + number % 4) // 4]}"
    own = ("row_id", "source", "prompt", "label", "status", "nll_reference", "nll_accepted", "proposal", "stage")
    return {name: getattr(outcome, name) for name in own} | {
        "reason": outcome.reason or None,
        "thinking": thought,
        "answer": f"Sorted: drawer {number} is done.",
        "reference_thinking": "Shells are sorted by size.",
        "reference_answer": "By size.",
        "attempts": 1,
        "candidate_reasons": list(outcome.candidate_reasons),
        "candidate_proposals": list(outcome.candidate_proposals),
        "categories": list(outcome.categories),
        "prompt_tokens": len(outcome.prompt_ids),
        "response_tokens": len(outcome.response_ids),
        "reference_tokens": 12,
        "thought_tokens": len(outcome.response_ids) * 3 // 4 if outcome.response_ids else None,
        "verdict": "safe",
    }
