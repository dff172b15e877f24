"""Reward functions for Axolotl's ``rl: grpo``, to be named in ``trl.reward_funcs`` by their full paths.

They run where TRL calls them: in every training process. ``guard_safe`` loads the YAML's guard there, on the trainer's
own device, at its first call; no server and no second process is needed, and the guard's weights stay in that
device's memory beside the policy (about 1.5 GB in bfloat16 for Qwen3Guard-Gen-0.6B).

Each takes what TRL passes: ``prompts``, ``completion_ids`` (with the end token, if one was sampled) and the dataset's
columns ``label`` and ``answer``, written by ``type: axolotl_safety.grpo``. Completions are read from their ids: TRL's
text has lost every special token, and on some models the think markers are special. What is malformed or was cut off
earns 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from axolotl_safety.data.math_answers import reaches
from axolotl_safety.data.refusal.detector import refuses
from axolotl_safety.guards.judge import GuardInput
from axolotl_safety.util.errors import DataError

from .context import current

__all__ = ["correct", "guard_safe", "refusal", "think_format"]

Ids = Sequence[Sequence[int]]
Labels = Sequence[str | None]


def guard_safe(prompts: Sequence[Any], completion_ids: Ids, label: Labels | None = None, **kwargs: Any) -> list[float]:
    """The guard's probability of safe at its verdict, given prompt, thought and answer (ThinkSafe's GRPO baseline).

    Args:
        prompts: conversations, or texts.
        completion_ids: sampled ids.
        label: ``harmful`` or ``benign``; only the heuristic guard looks at it.
        **kwargs: whatever else TRL passes.

    Returns:
        0 to 1 each; 0 where there is no well-formed response, or the guard cannot judge it.
    """
    context = current()
    labels = label if label is not None else [None] * len(prompts)
    items = []
    for prompt, ids, row_label in zip(prompts, completion_ids, labels, strict=True):
        split = context.split(ids)
        judged = GuardInput(_user_text(prompt), split.thinking, split.answer, row_label or "harmful")
        items.append(None if split.fault else judged)
    return context.safe(items)


def think_format(prompts: Sequence[Any], completion_ids: Ids, **kwargs: Any) -> list[float]:
    """1 for one thought, opened once (by the model, or by R1's generation prompt), closed once, and an answer; else 0.

    Stricter than the baseline's count of markers: thought and answer hold text, and the response ends by itself.
    """
    context = current()
    return [float(not context.split(ids).fault) for ids in completion_ids]


def refusal(
    prompts: Sequence[Any], completion_ids: Ids, label: Labels | None = None, **kwargs: Any
) -> list[float | None]:
    """1 if a harmful prompt is refused or a benign one answered, else 0.

    None (no reward) for a row without a label, and where the detector cannot tell in this language.

    A guard alone is content with a model that refuses everything, since a refusal is always safe.
    """
    if label is None:
        raise DataError(
            "the reward axolotl_safety.rewards.refusal needs the column `label`, which the dataset lacks. Read it with "
            "type: axolotl_safety.grpo, or give its rows a column label: harmful | benign."
        )
    context = current()
    rewards: list[float | None] = []
    for ids, row_label in zip(completion_ids, label, strict=True):
        split = context.split(ids)
        refused = refuses(split.answer)
        unknown = row_label is None or (refused is None and not split.fault)
        rewards.append(None if unknown else float(not split.fault and refused == (row_label == "harmful")))
    return rewards


def correct(
    prompts: Sequence[Any], completion_ids: Ids, answer: Sequence[str | None] | None = None, **kwargs: Any
) -> list[float | None]:
    """1 if the answer of a reasoning row is its gold answer, else 0; None (no reward) for a row without one."""
    if answer is None:
        raise DataError(
            "the reward axolotl_safety.rewards.correct needs the column `answer`, which the dataset lacks. Read it "
            "with type: axolotl_safety.grpo, or give its rows a column answer."
        )
    context = current()
    rewards: list[float | None] = []
    for ids, gold in zip(completion_ids, answer, strict=True):
        split = context.split(ids)
        rewards.append(None if gold is None else float(not split.fault and reaches(split.answer, gold)))
    return rewards


def _user_text(prompt: Any) -> str:
    """What was asked, as one text: the last turn of a conversation behind those before it, or the text itself."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join([f"[{turn['role']}] {turn['content']}" for turn in prompt[:-1]] + [str(prompt[-1]["content"])])
