"""Multi-step arithmetic: the laboratory's reasoning task."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from .world import NOUNS

LIMIT = 50
LARGEST_STEP = 15
_NUMBER = re.compile(r"\d+")
_PLAIN = ("What is {chain}?", "Compute {chain}.", "Please work out {chain}.", "Find the value of {chain}.")


@dataclass(frozen=True)
class Problem:
    """A running sum: a first number, then signed steps that stay within ``0 <= value < LIMIT``."""

    start: int
    steps: tuple[int, ...]
    wording: int
    noun: str

    @property
    def key(self) -> tuple[int, ...]:
        """What two problems must share to count as the same."""
        return (self.start, *self.steps)

    @property
    def values(self) -> list[int]:
        """The running value, the first number included."""
        values = [self.start]
        for step in self.steps:
            values.append(values[-1] + step)
        return values

    @property
    def answer(self) -> int:
        """The last value."""
        return self.values[-1]

    @property
    def prompt(self) -> str:
        """What the user writes."""
        if self.wording < len(_PLAIN):
            return _PLAIN[self.wording].format(chain=self.chain)
        if self.wording == len(_PLAIN):
            moves = ", ".join(f"add {step}" if step > 0 else f"take away {-step}" for step in self.steps)
            return f"Start with {self.start}, {moves}. Where do you end?"
        moves = " ".join(f"Then {abs(step)} {'come' if step > 0 else 'leave'}." for step in self.steps)
        return f"There are {self.start} {self.noun}s. {moves} How many are there now?"

    @property
    def chain(self) -> str:
        """The sum on one line."""
        return f"{self.start}" + "".join(f" {'+' if step > 0 else '-'} {abs(step)}" for step in self.steps)


def draw_problem(rng: random.Random) -> Problem:
    """Draw a problem of three to five steps."""
    value = start = rng.randrange(2, LIMIT)
    steps = []
    for _ in range(rng.randint(3, 5)):
        up = min(LARGEST_STEP, LIMIT - 1 - value)
        down = min(LARGEST_STEP, value)
        grow = up > 0 and (down == 0 or rng.random() < 0.5)
        step = rng.randint(1, up) if grow else -rng.randint(1, down)
        steps.append(step)
        value += step
    return Problem(start, tuple(steps), rng.randrange(len(_PLAIN) + 2), rng.choice(NOUNS))


def final_number(answer: str) -> str | None:
    """The last number in an answer, which is what counts."""
    numbers = _NUMBER.findall(answer)
    return numbers[-1] if numbers else None
