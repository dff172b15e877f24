"""Which rows `max_rows` takes: drawn, those the model finds likeliest, or those least alike.

Every rule is an order of the rows, and `max_rows` takes its beginning: a larger one keeps every row of a smaller one,
and their finished completions are used again. DGR (arXiv 2602.02136) reports that ten rows can be enough to bring
refusal back; which ten matters then.
"""

from __future__ import annotations

import heapq
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from axolotl_safety.config import DatasetOptions, SafetyConfig
from axolotl_safety.data.entries import Entry
from axolotl_safety.data.sources import seeded_order
from axolotl_safety.data.types import Key, Task
from axolotl_safety.engines.progress import Progress
from axolotl_safety.engines.queue import WorkQueue, score_request
from axolotl_safety.methods.base import method_named
from axolotl_safety.methods.run import bounded
from axolotl_safety.util.errors import ConfigError

LOG = logging.getLogger(__name__)

# A script without spaces has no words to split; its characters stand for them.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_SCALE = 16  # inverse document frequencies are rounded to sixteenths: sums of integers are the same on every machine


def scores_rows(safety: SafetyConfig, entries: Sequence[Entry]) -> bool:
    """Whether any entry's rows must be scored before they can be chosen."""
    return any(_rule(safety, entry.options) == "lowest_nll" and _limit(safety, entry) for entry in entries)


def rows_enough(safety: SafetyConfig, options: DatasetOptions) -> int | None:
    """How many usable rows in the order of the draw need to be looked at; None if the choice is among all of them."""
    return (options.max_rows or safety.max_rows) if _rule(safety, options) == "random" else None


def check_scorable(safety: SafetyConfig, method: str, options: DatasetOptions, source: str) -> None:
    """Refuse `lowest_nll` where no reference is read.

    Raises:
        ConfigError: naming the line that helps.
    """
    scores = _rule(safety, options) == "lowest_nll" and (options.max_rows or safety.max_rows)
    if scores and not method_named(method).reads_reference:
        raise ConfigError(
            f"datasets: {source!r}: select lowest_nll takes the rows whose reference the model finds likeliest, and "
            f"type axolotl_safety.{method} reads no reference. Put safety: {{select: random}} or {{select: diverse}} "
            "on this dataset."
        )


def select_tasks(
    safety: SafetyConfig, entries: Sequence[Entry], nlls: Mapping[Key, float | None] | None = None
) -> list[Entry]:
    """The entries with no more rows than `max_rows` says.

    Args:
        safety: the section.
        entries: with every usable row, or as many of the drawn ones as `rows_enough` says.
        nlls: from `reference_nlls`, where `lowest_nll` needs them; None takes as many rows, drawn by seed (a plan asks
            nothing).
    """
    return [_narrowed(safety, entry, nlls) for entry in entries]


async def reference_nlls(
    safety: SafetyConfig, entries: Sequence[Entry], queue: WorkQueue, fingerprint: str
) -> dict[Key, float | None]:
    """NLL of the references that `lowest_nll` chooses by, in nats per token at the raw prompt.

    Raises:
        StageError: scores are missing and no engine may start.
    """
    asked = [task for entry in entries if scores_rows(safety, [entry]) for task in entry.tasks]

    async def nll(task: Task) -> float | None:
        found = await queue.nll(score_request(fingerprint, task.prompt_ids, task.reference_ids or ()))
        progress.done()
        return found

    with Progress("references scored, for select: lowest_nll", len(asked), queue) as progress:
        return dict(zip([task.key for task in asked], await bounded(asked, nll), strict=True))


def _rule(safety: SafetyConfig, options: DatasetOptions) -> str:
    return options.select or safety.select


def _limit(safety: SafetyConfig, entry: Entry) -> int | None:
    """How many rows to take, None if all of them are."""
    limit = entry.options.max_rows or safety.max_rows
    return limit if limit is not None and limit < len(entry.tasks) else None


def _narrowed(safety: SafetyConfig, entry: Entry, nlls: Mapping[Key, float | None] | None) -> Entry:
    limit = _limit(safety, entry)
    if limit is None:
        return entry
    rule = _rule(safety, entry.options)
    ids = [task.example.row_id for task in entry.tasks]
    drawn = {row_id: place for place, row_id in enumerate(seeded_order(ids, safety.seed))}
    tasks = sorted(entry.tasks, key=lambda task: drawn[task.example.row_id])
    if rule == "lowest_nll" and nlls is not None:  # one that cannot be scored comes last
        tasks.sort(key=lambda task: math.inf if (nll := nlls[task.key]) is None else nll)
    elif rule == "diverse":
        prompts = [task.example.prompt for task in tasks]
        groups = ["; ".join(task.example.categories) for task in tasks]
        tasks = [tasks[index] for index in diverse_order(prompts, groups, limit)]
    chosen = {task.example.row_id for task in tasks[:limit]}
    LOG.info("%s: %d of %d usable rows taken (select: %s)", entry.source.name, limit, len(entry.tasks), rule)
    return replace(entry, tasks=tuple(task for task in entry.tasks if task.example.row_id in chosen))


def diverse_order(prompts: Sequence[str], groups: Sequence[str], count: int) -> list[int]:
    """Greedy farthest-point order (Gonzalez 1985) on TF-IDF vectors of words and word pairs, cosine distance.

    Each step serves the group that has the fewest rows so far, and takes the row of it that is least like anything
    taken. Farthest points are unusual rows by construction: noise in a dataset is found by this rule too.

    Args:
        prompts: in the order that decides between equals; the first is taken first.
        groups: what each prompt is filed under; equal names are balanced against each other.
        count: how many places are wanted.

    Returns:
        Indices into ``prompts``.
    """
    vectors, postings = _tf_idf(prompts)
    norms_N = np.sqrt(np.array([max(1, sum(w * w for w in vector.values())) for vector in vectors], dtype=np.float64))
    nearest_N = np.zeros(len(prompts))  # cosine with the most similar row taken
    waiting: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        waiting[group].append(index)
    members = {group: np.array(indices) for group, indices in waiting.items()}
    turns = [(0, group) for group in sorted(members)]  # a heap: how many rows it has taken, and its name
    order: list[int] = []
    while turns and len(order) < count:
        taken, group = heapq.heappop(turns)
        place = int(np.argmin(nearest_N[members[group]]))  # the first of equals
        index = int(members[group][place])
        order.append(index)
        members[group] = np.delete(members[group], place)
        if len(members[group]):
            heapq.heappush(turns, (taken + 1, group))
        dots_N = np.zeros(len(prompts), dtype=np.int64)
        for feature, weight in vectors[index].items():
            rows, weights = postings[feature]
            dots_N[rows] += weights * weight
        np.maximum(nearest_N, dots_N / (norms_N * norms_N[index]), out=nearest_N)
    return order


def _tf_idf(prompts: Sequence[str]) -> tuple[list[dict[str, int]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Integer vectors by feature, and for each feature the rows that have it with their weights."""
    counts = [_features(prompt) for prompt in prompts]
    frequency = Counter(feature for found in counts for feature in found)
    idf = {name: round(_SCALE * (1 + math.log((1 + len(prompts)) / (1 + n)))) for name, n in frequency.items()}
    vectors = [{name: n * idf[name] for name, n in found.items()} for found in counts]
    rows: dict[str, list[int]] = defaultdict(list)
    for index, vector in enumerate(vectors):
        for name in vector:
            rows[name].append(index)
    postings = {
        name: (np.array(found), np.array([vectors[index][name] for index in found], dtype=np.int64))
        for name, found in rows.items()
    }
    return vectors, postings


def _features(prompt: str) -> Counter[str]:
    words = _WORD.findall(prompt.lower())
    return Counter(words) + Counter(f"{one} {two}" for one, two in zip(words, words[1:], strict=False))
