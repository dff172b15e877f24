"""Reject reasons that need no model. Each check looks at one candidate and names one fault, or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .guards.refusal import is_refusal
from .prompts import Prompt

# Talk about the rewriting task itself, in any prompt's wording (SDFT's ban list has the same purpose).
_META = re.compile(
    r"\b(?:(?:the|this|that|given|provided|original) (?:reference|original|given|provided|sample) response|"
    r"the reference\b(?! (?:point|frame))|reference (?:response|answer|text)|"
    r"(?:my|own) (?:rewrite|rewriting|rewording|version of the (?:response|answer))\b|"
    r"rewrite (?:the|this) (?:response|answer|reference)|in my own words|"
    r"(?:i was|i am|i'm) (?:asked|told|instructed) to (?:refuse|rewrite|rephrase))",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+(?:'\w+)?")
_LEAK_WORDS = 6
_LOOP_TOKENS = 64
_LOOP_REPEATS = 4
_LONGEST_PERIOD = 64
_COPY_OVERLAP = 0.9


@dataclass(frozen=True)
class Response:
    """A completion taken apart, with what it answers."""

    prompt: str
    thinking: str
    answer: str
    token_ids: tuple[int, ...]

    @property
    def text(self) -> str:
        """Thought and answer in one string, for checks that read both."""
        return f"{self.thinking}\n{self.answer}"


def words(text: str) -> list[str]:
    """Lower-case words of a text."""
    return _WORD.findall(text.lower())


def ngrams(items: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """Every run of ``size`` items."""
    return {tuple(items[place : place + size]) for place in range(len(items) - size + 1)}


def leaks(response: Response, prompt: Prompt) -> bool:
    """Whether the response talks about its instructions: meta talk, or six words of the template in a row.

    What the raw prompt itself says is no leak.
    """
    if any(match.group(0).lower() not in response.prompt.lower() for match in _META.finditer(response.text)):
        return True
    asked = ngrams(words(response.prompt), _LEAK_WORDS)
    said = ngrams(words(response.text), _LEAK_WORDS)
    return any(said & (ngrams(words(literal), _LEAK_WORDS) - asked) for literal in prompt.literals)


def loops(token_ids: Sequence[int]) -> bool:
    """Whether some short run of tokens repeats itself at least four times over at least 64 tokens."""
    ids_T = np.asarray(token_ids)
    for period in range(1, min(_LONGEST_PERIOD, len(ids_T) // 2) + 1):
        same_T = ids_T[period:] == ids_T[:-period]
        if np.count_nonzero(same_T) < _LOOP_TOKENS:
            continue
        breaks = np.flatnonzero(~same_T)
        edges = np.concatenate(([-1], breaks, [len(same_T)]))
        longest = int(np.diff(edges).max()) - 1
        if longest >= max(_LOOP_TOKENS, (_LOOP_REPEATS - 1) * period):
            return True
    return False


def copies(response: Response, thought: str, answer: str) -> bool:
    """Whether the response is the reference again (word trigrams, Jaccard >= 0.9): then nothing was refined."""
    own, foreign = words(response.text), words(f"{thought}\n{answer}")
    if len(own) < 3 or len(foreign) < 3:
        return own == foreign
    own_grams, foreign_grams = ngrams(own, 3), ngrams(foreign, 3)
    return len(own_grams & foreign_grams) / len(own_grams | foreign_grams) >= _COPY_OVERLAP


def check_form(response: Response, finish_reason: str, fault: str) -> str:
    """Faults of form, in the order in which they make the rest meaningless; empty if sound.

    Args:
        response: the candidate.
        finish_reason: what the engine says, ``stop`` or ``length``.
        fault: what taking the ids apart found (``unclosed_think`` and the like).
    """
    if finish_reason != "stop":
        return "unclosed_think" if fault == "unclosed_think" else "truncated"
    if fault:
        return fault
    if not response.thinking:
        return "empty_thought"
    if not response.answer:
        return "empty_answer"
    return "loop" if loops(response.token_ids) else ""


def check_decision(answer: str, expect: str) -> str:
    """Whether the answer decides as it must: ``expect`` is ``refuse``, ``answer`` or ``any``."""
    if expect == "refuse" and not is_refusal(answer):
        return "not_refused"
    if expect == "answer" and is_refusal(answer):
        return "over_refused"
    return ""
