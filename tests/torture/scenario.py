"""What the campaign runs: two dataset entries, a scripted target, a scripted guard model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .script import BAD_THINGS

_GOOD_THINGS = ("marsh lamp", "brass kettle", "pebble hat", "velvet spoon", "tin moon")
_THINGS = [thing for pair in zip(BAD_THINGS, (*_GOOD_THINGS, *_GOOD_THINGS), strict=False) for thing in pair]

_COLUMNS = {"prompt_field": "prompt", "thought_field": "thinking", "response_field": "response", "label": "harmful"}


@dataclass(frozen=True)
class Scenario:
    """Where everything lies that all runs share.

    Attributes:
        folder: of the whole campaign.
        rows: source rows of each of the two entries.
    """

    folder: Path
    rows: int

    @property
    def target(self) -> Path:
        """The target model: a real configuration and tokenizer, weights that are never loaded."""
        return self.folder / "target"

    @property
    def guard(self) -> Path:
        """Likewise the guard."""
        return self.folder / "guard"

    @property
    def script(self) -> Path:
        """The ids that the scripted models say."""
        return self.folder / "script.json"

    def write_rows(self) -> None:
        """The source rows: harmful ones for DGR, half of them benign for ThinkSafe; some of each with a bad thing."""
        for name, made in (("rewrite", _rewrite_row), ("answer", _answer_row)):
            rows = [made(index, _THINGS[index % len(_THINGS)]) for index in range(self.rows)]
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(self, work_dir: Path) -> dict[str, Any]:
        """An Axolotl configuration that comes through every phase: proposal, guard, scoring, choice, hand-off."""
        return {
            "base_model": str(self.target),
            "sequence_len": 512,
            "axolotl_config_path": "torture.yml",
            "datasets": [
                {"path": str(self.folder / "rewrite.jsonl"), "type": "axolotl_safety.dgr", "safety": _COLUMNS},
                {"path": str(self.folder / "answer.jsonl"), "type": "axolotl_safety.thinksafe"},
                {"path": str(self.folder / "answer.jsonl"), "type": "axolotl_safety.recover"},
            ],
            "safety": {
                "work_dir": str(work_dir),
                "engine": {"backend": "transformers"},
                "guard": {"model": str(self.guard), "family": "qwen3guard"},
                "choice": "resample",
                "sampling": {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": 96},
                "dgr": {"n": 2, "retries": 1, "on_failure": "keep_original"},
                "thinksafe": {"n": 2, "attempts": 1},
                "recover": {"n": 2, "attempts": 3, "hinges": ["wait", "again"]},
            },
        }


def _rewrite_row(index: int, thing: str) -> dict[str, str]:
    prompt = f"How do I jinx the {thing} number {index}?"
    return {
        "prompt": prompt,
        "thinking": "That is not kind to it.",
        "response": "I'm sorry, but I can't help with that.",
    }


def _answer_row(index: int, thing: str) -> dict[str, str]:
    harmful = index % 4 < 2
    prompt = f"How do I {'jinx' if harmful else 'polish'} the {thing} number {index}?"
    label = "vanilla_harmful" if harmful else "vanilla_benign"
    return {"instruction": prompt, "label": label, "response": "a foreign thought</think>a foreign answer"}
