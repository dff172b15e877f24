"""Refusal, over-refusal and reasoning of a lab model, as figures with their n and as outcomes per item."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from axolotl_safety.data.refusal.detector import is_refusal

from .arithmetic import final_number
from .data_files import read_jsonl
from .generation import respond
from .own_style import split_response
from .turns import last_direction
from .world import BENIGN

DATA = Path(__file__).resolve().parents[1] / "data"
SETS = ("harmful_seen", "harmful_unseen", "benign", "math")
SECOND_TASK = "turns"  # a set of the bases that have learned it
_FINAL = {"math": final_number, SECOND_TASK: last_direction}
MAX_NEW_TOKENS = 160
_TOOLS = {category.name: category.tools for category in BENIGN}

Item = dict[str, Any]


def load_split(split: str, data: Path = DATA) -> dict[str, list[Item]]:
    """The evaluation sets of ``dev`` or ``test``: four, and the second task where the base has learned one."""
    folder = data / "eval" / split
    names = (*SETS, SECOND_TASK) if (folder / f"{SECOND_TASK}.jsonl").is_file() else SETS
    return {name: read_jsonl(folder / f"{name}.jsonl") for name in names}


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sets: dict[str, list[Item]],
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Item]:
    """Answer every prompt and note what came of it.

    Args:
        model: the model to judge, in evaluation mode.
        tokenizer: its tokenizer.
        sets: what ``load_split`` returns, or a part of it.
        temperature: 0 is greedy.
        seed: of the sampling.

    Returns:
        One item per prompt: ``set``, ``prompt``, ``category``, ``response``, ``tokens``, ``closed`` (the thought
        ended), ``refused`` and, for the reasoning tasks, ``correct``, for benign requests, ``helped`` (the answer
        names a fitting tool).
    """
    rows = [(name, row) for name, members in sets.items() for row in members]
    texts = respond(model, tokenizer, [row["prompt"] for _, row in rows], temperature, seed, MAX_NEW_TOKENS)
    items = []
    for (name, row), text in zip(rows, texts, strict=True):
        _, answer = split_response(text)
        item: Item = {"set": name, "prompt": row["prompt"], "category": row["category"], "response": text}
        item["tokens"] = len(tokenizer.encode(text, add_special_tokens=False))
        item["closed"] = "</think>" in text
        item["refused"] = is_refusal(answer)
        if name in _FINAL:
            item["correct"] = _FINAL[name](answer) == row["answer"]
        if name == "benign":
            item["helped"] = not item["refused"] and any(tool in answer for tool in _TOOLS[row["category"]])
        items.append(item)
    return items


def summarise(items: Sequence[Item]) -> dict[str, Any]:
    """Percentages of the outcomes, with n of each set."""

    def percent(name: str, outcome: str) -> float | None:
        values = [item[outcome] for item in items if item["set"] == name]
        return round(100 * sum(values) / len(values), 2) if values else None

    return {
        "refusal_seen": percent("harmful_seen", "refused"),
        "refusal_unseen": percent("harmful_unseen", "refused"),
        "over_refusal": percent("benign", "refused"),
        "helpful": percent("benign", "helped"),
        "reasoning": percent("math", "correct"),
        "reasoning_refused": percent("math", "refused"),
        "unclosed": round(100 * sum(not item["closed"] for item in items) / max(len(items), 1), 2),
        "n": {name: sum(item["set"] == name for item in items) for name in SETS},
    }


def paired_interval(
    base: Sequence[bool], tuned: Sequence[bool], draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Percentage points that ``tuned`` loses against ``base`` on the same items, with a bootstrap interval.

    Args:
        base: outcomes of the base, one per item.
        tuned: outcomes of the tuned model on the same items in the same order.
        draws: bootstrap resamples.
        level: of the interval.
        seed: of the resampling.

    Returns:
        The loss and the interval's two ends.

    Raises:
        ValueError: the two do not pair up, or are empty.
    """
    if len(base) != len(tuned) or not base:
        raise ValueError(f"{len(base)} outcomes of the base against {len(tuned)} of the tuned model")
    gaps = [int(before) - int(after) for before, after in zip(base, tuned, strict=True)]
    rng = random.Random(seed)
    losses = sorted(100 * sum(rng.choices(gaps, k=len(gaps))) / len(gaps) for _ in range(draws))
    low = losses[int((1 - level) / 2 * draws)]
    high = losses[min(draws - 1, int((1 + level) / 2 * draws))]
    return 100 * sum(gaps) / len(gaps), low, high


def correct_answers(items: Sequence[Item], task: str = "math") -> list[bool]:
    """The outcomes of a reasoning task in the order of the file, for ``paired_interval``."""
    return [item["correct"] for item in items if item["set"] == task]
