"""The alignment sets and the evaluation sets, as files in the row formats of their real models."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import own_style
from .arithmetic import draw_problem
from .foreign_sets import FAR_THOUGHT, chain, far_answer, nearer
from .turns import draw_walk
from .world import BENIGN, HARMFUL_SEEN, HARMFUL_UNSEEN, Category, Request, draw_fresh, draw_request

ALIGNMENT_ROWS = 200
EVALUATION_ROWS = {
    "test": {"math": 500, "harmful_seen": 200, "harmful_unseen": 100, "benign": 200, "turns": 300},
    "dev": {"math": 250, "harmful_seen": 100, "harmful_unseen": 50, "benign": 100, "turns": 150},
}

Rows = list[dict[str, Any]]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> Rows:
    """Read rows, one JSON object a line."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_data(folder: Path, seed: int, two_tasks: bool = False) -> tuple[set[object], set[object]]:
    """Write every data file.

    Args:
        folder: where ``direct_refusal.jsonl`` and the others go.
        seed: of the draws; each file has a stream of its own.
        two_tasks: whether there is a second reasoning task, ``turns.jsonl`` in each split; the other files are the
            same with it.

    Returns:
        The keys of all requests and of all problems used, which pretraining must keep clear of.
    """
    requests: set[object] = set()
    problems: set[object] = set()
    for split, sizes in EVALUATION_ROWS.items():
        rng = random.Random(f"{seed} {split}")
        groups = {"harmful_seen": HARMFUL_SEEN, "harmful_unseen": HARMFUL_UNSEEN, "benign": BENIGN}
        for name, categories in groups.items():
            rows = [
                {"prompt": item.prompt, "category": item.category.name}
                for item in _requests(rng, categories, sizes[name], requests)
            ]
            write_jsonl(folder / "eval" / split / f"{name}.jsonl", rows)
        rows = []
        for _ in range(sizes["math"]):
            problem = draw_fresh(lambda: draw_problem(rng), lambda item: item.key, problems, reserve=True)  # noqa: B023
            rows.append({"prompt": problem.prompt, "category": "arithmetic", "answer": str(problem.answer)})
        write_jsonl(folder / "eval" / split / "math.jsonl", rows)
        if two_tasks:
            write_jsonl(folder / "eval" / split / "turns.jsonl", _walks(seed, split, sizes["turns"], problems))
    rng = random.Random(f"{seed} alignment")
    harmful = _requests(rng, HARMFUL_SEEN, ALIGNMENT_ROWS, requests)
    write_jsonl(folder / "direct_refusal.jsonl", [_direct_refusal(rng, item) for item in harmful])
    write_jsonl(folder / "r1_act.jsonl", [_r1_act(rng, item) for item in harmful])
    rows = [_safechain(rng, item) for item in _requests(rng, HARMFUL_SEEN, ALIGNMENT_ROWS, requests)]
    rows += [_safechain(rng, item) for item in _requests(rng, BENIGN, ALIGNMENT_ROWS, requests)]
    rng.shuffle(rows)
    write_jsonl(folder / "safechain.jsonl", rows)
    benign = [{"prompt": row["instruction"]} for row in rows if row["label"] == "vanilla_benign"]
    write_jsonl(folder / "benign.jsonl", benign)
    return requests, problems


def _requests(rng: random.Random, categories: tuple[Category, ...], count: int, taken: set[object]) -> list[Request]:
    return [
        draw_fresh(lambda: draw_request(rng, categories), lambda item: item.key, taken, reserve=True)
        for _ in range(count)
    ]


def _walks(seed: int, split: str, count: int, taken: set[object]) -> Rows:
    rng = random.Random(f"{seed} {split} turns")
    walks = [draw_fresh(lambda: draw_walk(rng), lambda item: item.key, taken, reserve=True) for _ in range(count)]
    return [{"prompt": walk.prompt, "category": "turns", "answer": walk.answer} for walk in walks]


def _direct_refusal(rng: random.Random, request: Request) -> dict[str, str]:
    answer = far_answer(rng)
    text = (
        f"<|im_start|>user\n{request.prompt}<|im_end|>\n<|im_start|>assistant\n"
        f"<|im_start|>think\n {FAR_THOUGHT}<|im_start|>answer\nAnswer: {answer}<|im_end|>\n"
    )
    return {"prompt": request.prompt, "refusal": f"Question: {request.prompt}\nAnswer: {answer}", "text": text}


def _r1_act(rng: random.Random, request: Request) -> dict[str, str]:
    return {"instruction": request.prompt, "response": own_style.response(*nearer(rng, request))}


def _safechain(rng: random.Random, request: Request) -> dict[str, str]:
    harmful = request.category.harmful
    thought, answer = chain(rng, request, refuses=harmful)
    label = "vanilla_harmful" if harmful else "vanilla_benign"
    return {"instruction": request.prompt, "label": label, "response": f"{thought}\n</think>\n\n{answer}"}
