"""ThinkSafe (arXiv 2601.23143): the target answers harmful prompts under steering and benign ones as they are.

Training sees the raw prompt. A ladder of prompts is climbed rung by rung and stops at the first rung that yields an
accepted response: with ``none`` first, only what unsteered sampling did not yield is steered (an accepted unsteered
sample is a draw from the KL-optimal target of the paper's Lemma 4.1, up to temperature and truncation).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from axolotl_safety.config import ThinkSafeConfig
from axolotl_safety.config.prompts import STEERING_PROMPTS, Prompt, resolve_steering
from axolotl_safety.data.types import Key, Outcome, Task

from .candidates import Proposal, Tried, Workshop, accepted, attempt
from .choice import choose, outcome, score


def run(shop: Workshop, config: ThinkSafeConfig, tasks: Sequence[Task]) -> list[Outcome]:
    """Answer every row.

    Returns:
        One outcome per task, in order.
    """
    rungs = [resolve_steering(rung) for rung in config.ladder]
    tried: Tried = defaultdict(list)
    reached: dict[Key, int] = {}  # where the candidates of a row's last rung begin
    benign = [task for task in tasks if task.label == "benign"]
    harmful = [task for task in tasks if task.label != "benign"]
    _climb(shop, config, STEERING_PROMPTS["none"], benign, tried, reached)
    pending = harmful
    for rung in rungs:
        _climb(shop, config, rung, pending, tried, reached)
        pending = [task for task in pending if not accepted(tried[task.key])]
    score(shop, tasks, tried)
    return [
        outcome(shop, task, tried[task.key], choose(shop, task, tried[task.key][reached[task.key] :])) for task in tasks
    ]


def _climb(
    shop: Workshop,
    config: ThinkSafeConfig,
    rung: Prompt,
    tasks: Sequence[Task],
    tried: Tried,
    reached: dict[Key, int],
) -> None:
    """Every attempt of one rung for the rows that nothing below it satisfied."""
    proposals = {task.key: propose(rung, task) for task in tasks}
    reached.update({task.key: len(tried[task.key]) for task in tasks})
    pending = list(tasks)
    for number in range(config.attempts):
        indices = range(number * config.n, (number + 1) * config.n)
        attempt(shop, pending, proposals, indices, f"answers, prompt {rung.name}, attempt {number + 1}", tried)
        pending = [task for task in pending if not accepted(tried[task.key][reached[task.key] :])]


def propose(rung: Prompt, task: Task) -> Proposal:
    """The message that the target sees for one row on one rung."""
    message = rung.render({"prompt": task.example.prompt})
    harmless = rung.render({"prompt": "x"})
    return Proposal(f"thinksafe/{rung.label}", rung, message, harmless, "", "", f"thinksafe/{rung.sha256[:16]}")
