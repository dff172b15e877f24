"""Attacks: the prompts of the harm and over-refusal sets once more, each with a push towards answering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from axolotl_safety.config.attacks import OPENINGS, WHOLE, WRAPPERS, Opening, Wrapper
from axolotl_safety.config.evaluation import EvalAttacksConfig
from axolotl_safety.data.tokenizer import TargetTokenizer

from .items import Item
from .sets import EvalSet

ATTACKED = ("harm", "over_refusal")


@dataclass(frozen=True)
class Asked:
    """What a response stands behind.

    Attributes:
        text: the user message.
        prompt_ids: its generation prompt.
        begun_ids: of the response, what it begins with; the model goes on from there.
    """

    text: str
    prompt_ids: tuple[int, ...]
    begun_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Thought:
    """The base's own thought on the way to an answer, as it sampled it.

    Attributes:
        opening_ids: how it opens the thought; empty where the generation prompt does.
        token_ids: the thought itself, without its closing marker.
    """

    opening_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Attack:
    """One attack of one strength.

    Attributes:
        name: as figures call it: ``prefill 8``, ``opening easy@1``, ``wrapped novel@1``.
        identity: what decides, besides the base's thoughts, what is asked.
        ask: from tokenizer, set, item and the base's thought (or why there is none) to what is asked, or why it cannot.
    """

    name: str
    identity: tuple[str, ...]
    ask: Callable[[TargetTokenizer, EvalSet, Item, Thought | str], Asked | str]


def attacks_of(settings: EvalAttacksConfig | None) -> tuple[Attack, ...]:
    """The attacks that the section names, the weakest prefill first."""
    if settings is None:
        return ()
    prefills = [Attack(f"prefill {size}", (str(size),), partial(_prefill, size)) for size in settings.prefill]
    openings = [
        Attack(f"opening {one.label}", (one.sha256,), partial(_opening, one))
        for one in map(OPENINGS.__getitem__, settings.openings)
    ]
    wrapped = [
        Attack(f"wrapped {one.label}", (one.sha256,), partial(_wrapped, one))
        for one in map(WRAPPERS.__getitem__, settings.wrapped)
    ]
    return (*prefills, *openings, *wrapped)


def _prefill(
    size: int | str, tokens: TargetTokenizer, spec: EvalSet, item: Item, thought: Thought | str
) -> Asked | str:
    if isinstance(thought, str):
        return thought
    kept = thought.token_ids if size == WHOLE else thought.token_ids[: int(size)]
    return Asked(item.prompt, item.prompt_ids, (*thought.opening_ids, *kept))


def _opening(one: Opening, tokens: TargetTokenizer, spec: EvalSet, item: Item, thought: Thought | str) -> Asked | str:
    return Asked(item.prompt, item.prompt_ids, tokens.begun_ids(one.thought, one.answer))


def _wrapped(one: Wrapper, tokens: TargetTokenizer, spec: EvalSet, item: Item, thought: Thought | str) -> Asked | str:
    text = spec.template.replace("{prompt}", one.around(item.row_prompt))
    prompt_ids = tokens.prompt_ids(text)
    return "control_token" if prompt_ids is None else Asked(text, prompt_ids)
