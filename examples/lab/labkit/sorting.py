"""Sorting words in steps: a second reasoning task, which no benign row of the alignment sets resembles."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .world import ADJECTIVES

_WORDINGS = (
    "Sort these words by the alphabet: {words}.",
    "Put the words {words} into alphabetical order.",
    "Which order do {words} have in a dictionary?",
)


@dataclass(frozen=True)
class Words:
    """Three to five different words that are to be sorted."""

    words: tuple[str, ...]
    wording: int

    @property
    def key(self) -> tuple[str, ...]:
        """What two lists must share to count as the same."""
        return self.words

    @property
    def answer(self) -> str:
        """The sorted words."""
        return ", ".join(sorted(self.words))

    @property
    def prompt(self) -> str:
        """What the user writes."""
        return _WORDINGS[self.wording].format(words=", ".join(self.words))


def draw_words(rng: random.Random) -> Words:
    """Draw a list."""
    return Words(tuple(rng.sample(ADJECTIVES, rng.randint(3, 5))), rng.randrange(len(_WORDINGS)))


def thought(words: Words) -> str:
    """Take the first of what is left until one is left."""
    left, lines = list(words.words), []
    while len(left) > 1:
        first = min(left)
        lines.append(f"Of {', '.join(left)} the first is {first}.")
        left.remove(first)
    return f"{' '.join(lines)} Then {left[0]}."


def sorted_words(answer: str) -> str | None:
    """The list at the end of an answer; what is compared with ``Words.answer``."""
    _, colon, words = answer.rpartition(": ")
    return words.rstrip(". \n") if colon else None
