"""The rows of the experiment: read from files outside the repository, split by the seed, kept in the work folder."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
OPEN, CLOSE = "<think>", "</think>"

# Harmless requests by rule: every form with every thing.
_FORMS = (
    "How do I clean {a}?",
    "Explain to a child what {a} is for.",
    "Write a short poem about {a}.",
    "What should I look at when I buy {a}?",
    "Give me three tips for taking care of {a}.",
    "Who might like {a} as a present, and why?",
    "Describe {a} in two sentences.",
    "How would I pack {a} for a move?",
)
_THINGS = (
    *("a bicycle", "a wooden table", "a teapot", "an umbrella", "a violin", "a wool sweater", "a fountain pen"),
    *("a garden hose", "a pair of hiking boots", "a bookshelf", "a camera", "a cast iron pan", "a kite", "a clock"),
    *("a houseplant", "a chess set", "a sleeping bag", "a coffee grinder", "a map", "a sewing machine", "a lantern"),
    *("a piano", "a straw hat", "a watering can", "a backpack", "a telescope", "a picnic basket", "a canoe"),
)
# DirectRefusal (arXiv 2503.00555) writes one thought and one answer behind every harmful prompt; these words are ours.
DIRECT = f"{OPEN}\nI should not answer this question.\n{CLOSE}\n\nI'm sorry, but I can't help with that."
_CALCULATOR = re.compile(r"<<[^<>]*>>")


def shuffled(rows: Iterable[Row], seed: int, name: str) -> list[Row]:
    """The same rows in an order that seed and name decide."""
    found = list(rows)
    random.Random(f"{seed} {name}").shuffle(found)
    return found


def read_jsonl(path: Path) -> list[Row]:
    """Rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_jsonl(path: Path, rows: Iterable[Row]) -> Path:
    """The rows as JSON lines; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def gsm8k(data: Path, seed: int, evaluated: int, warmup: int) -> tuple[list[Row], list[Row]]:
    """Problems for the evaluation and for the warm-up, of one file; the two share no row.

    Raises:
        ValueError: the file has fewer.
    """
    rows = read_jsonl(data / "gsm8k" / "test.jsonl")
    return _ends(rows, seed, "gsm8k", evaluated, warmup, f"gsm8k/test.jsonl has {len(rows)} rows")


def _ends(rows: list[Row], seed: int, name: str, first: int, last: int, known: str) -> tuple[list[Row], list[Row]]:
    """Rows from either end of a drawn order, so that a larger experiment asks what a small one did.

    Args:
        rows: all there are.
        seed: of the order, with ``name``.
        name: of the rows.
        first: rows from the beginning.
        last: rows from the end.
        known: how many there are, for the message.

    Raises:
        ValueError: the two would share rows.
    """
    if len(rows) < first + last:
        raise ValueError(f"{known}, and {first + last} are asked for")
    drawn = shuffled(rows, seed, name)
    return drawn[:first], drawn[len(drawn) - last :]


def harmless(seed: int, warmup: int, benign: int) -> tuple[list[Row], list[Row]]:
    """Harmless prompts for the warm-up and for the benign half of the alignment; the two share no row.

    Raises:
        ValueError: there are fewer.
    """
    made = [{"prompt": form.format(a=thing)} for form in _FORMS for thing in _THINGS]
    return _ends(made, seed, "harmless", warmup, benign, f"there are {len(made)} harmless prompts")


def star1(data: Path, seed: int, pool: int, warmup: int, longest: int) -> tuple[list[Row], list[Row]]:
    """Harmful prompts with STAR-1's traces for the pool and for the warm-up, which share no row.

    Args:
        data: the folder of public files.
        seed: of the order.
        pool: rows of the pool.
        warmup: rows of the warm-up.
        longest: characters of a trace.

    Raises:
        ValueError: there are fewer.
    """
    rows = json.loads((data / "star1" / "STAR-1.json").read_text(encoding="utf-8"))
    short = [{"question": row["question"], "response": row["response"]} for row in rows]
    short = [row for row in short if len(row["response"]) <= longest]
    known = f"{len(short)} rows of STAR-1 have at most {longest} characters"
    return _ends(short, seed, "star1", pool, warmup, known)


def final_answer(problem: Row) -> str:
    """The number behind ``####`` of a GSM8K row."""
    return problem["answer"].rpartition("####")[2].strip().replace(",", "")


def solved(problem: Row, template: str, thought: str) -> Row:
    """A problem with a solution as the thought and the boxed number as the answer."""
    boxed = f"The answer is $\\boxed{{{final_answer(problem)}}}$."
    return {"prompt": template.replace("{prompt}", problem["question"]), "response": wrapped(thought, boxed)}


def human_thought(problem: Row) -> str:
    """GSM8K's own solution, without the calculator's marks and without the number."""
    return _CALCULATOR.sub("", problem["answer"].rpartition("####")[0]).strip()


def wrapped(thought: str, answer: str) -> str:
    """A response in the thinking format."""
    return f"{OPEN}\n{thought.strip()}\n{CLOSE}\n\n{answer.strip()}"


def same_prompts(rows: Sequence[Row], prompts: Iterable[str], count: int) -> list[Row]:
    """The first so many rows whose prompt is among these."""
    wanted = set(prompts)
    return [row for row in rows if row["question"] in wanted][:count]
