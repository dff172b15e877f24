"""Reject reasons that need no model. Each check looks at one candidate and names one fault, or none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from axolotl_safety.config.prompts import Prompt
from axolotl_safety.data.refusal.detector import refuses

# Talk about the rewriting task itself, in any prompt's wording (SDFT's ban list has the same purpose).
_META = re.compile(
    r"\b(?:(?:the|this|that|given|provided|original) (?:reference|original|given|provided|sample) response|"
    r"the reference\b(?! (?:point|frame))|reference (?:response|answer|text)|"
    r"(?:my|own) (?:rewrite|rewriting|rewording|version of the (?:response|answer))\b|"
    r"rewrite (?:the|this) (?:response|answer|reference)|in my own words|"
    r"(?:i was|i am|i'm|i've been|i have been|being) (?:asked|told|instructed) (?:to|that i should) "
    r"(?:refuse|decline|rewrite|rephrase))",
    re.IGNORECASE,
)
# Talk about being steered, however the steering was worded: who says that the prompt is harmful, or wants a refusal.
_STEERED = re.compile(
    r"\b(?:(?:wants?|asks?|asked|asking|tells?|told|telling|instruct(?:s|ed|ing)?) me (?:(?:to|that i should) "
    r"(?:refuse|decline|reject)|not to (?:answer|help|comply))|"
    r"(?:user|instructions?|message|system prompt|prompt) (?:says?|said|states?|stated|tells? me|told me|is telling me|"
    r"mentions?|claims?)(?: that)? (?:the|this) (?:following |above )?(?:prompt|request|query)|"
    r"(?:following|above) (?:prompt|query) (?:is|was|seems|may be) harmful|"
    r"refuse (?:to answer )?(?:the|this) prompt|"
    r"instructions? (?:is|are|was|were|says?|tells? me) to (?:refuse|decline))\b",
    re.IGNORECASE,
)
# Each with words one of which it cannot do without: looking for those takes a fraction of the time. None has an i,
# which the patterns find without its dot too.
_TALK = (
    (_META, ("response", "reference", "rewr", "reword", "of the", "own words", "asked", "told", "nstructed")),
    (_STEERED, (" me ", "prompt", "request", "query", "refuse", "decl")),
)
# Scripts without blanks count by the character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+(?:'\w+)?")
_LEAK_WORDS = 6
_LEAST_LEAK_WORDS = 4
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

    @cached_property
    def text(self) -> str:
        """Thought and answer in one string, for checks that read both."""
        return f"{self.thinking}\n{self.answer}"

    @cached_property
    def words(self) -> list[str]:
        """Of that text, in lower case."""
        return words(self.text)


def words(text: str) -> list[str]:
    """Lower-case words of a text."""
    return _WORD.findall(text.lower())


def ngrams(items: Sequence[str], size: int) -> set[tuple[str, ...]]:
    """Every run of ``size`` items."""
    return {tuple(items[place : place + size]) for place in range(len(items) - size + 1)}


def leaks(response: Response, prompt: Prompt) -> bool:
    """Whether the response talks about its instructions: meta talk, or six words of the template in a row (all words
    of a part that has four or five; shorter ones are anybody's words).

    What the raw prompt itself says is no leak.
    """
    text = response.text.casefold()
    patterns = [one for one, cues in _TALK[: 2 if prompt.literals else 1] if any(cue in text for cue in cues)]
    found = [match.group(0).lower() for pattern in patterns for match in pattern.finditer(response.text)]
    if any(text not in response.prompt.lower() for text in found):
        return True
    asked, said = words(response.prompt), {}
    for literal in map(words, prompt.literals):
        size = min(_LEAK_WORDS, len(literal))
        if size < _LEAST_LEAK_WORDS:
            continue
        if size not in said:
            said[size] = ngrams(response.words, size)
        if said[size] & (ngrams(literal, size) - ngrams(asked, size)):
            return True
    return False


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
    own, foreign = response.words, words(f"{thought}\n{answer}")
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
    """Whether the answer decides as it must: ``expect`` is ``refuse``, ``answer`` or ``any``.

    Where the detector cannot tell, nothing is rejected: the guard's word on refusal counts then.
    """
    if expect == "refuse" and refuses(answer) is False:
        return "not_refused"
    if expect == "answer" and refuses(answer) is True:
        return "over_refused"
    return ""
