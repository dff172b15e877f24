"""Turns on a compass in steps: a second reasoning task, which no benign row of the alignment sets resembles."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

DIRECTIONS = ("north", "east", "south", "west")
_QUARTERS = {"left": -1, "right": 1, "around": 2}
_WORDINGS = (
    "You face {start}. Turn {turns}. Where do you look?",
    "A robot looks {start}. It turns {turns}. Which way does it look now?",
    "Start facing {start} and turn {turns}. Which way do you face?",
)
_DIRECTION = re.compile(rf"\b({'|'.join(DIRECTIONS)})\b")


@dataclass(frozen=True)
class Walk:
    """A first direction, and three to six turns."""

    start: str
    turns: tuple[str, ...]
    wording: int

    @property
    def key(self) -> tuple[str, ...]:
        """What two walks must share to count as the same."""
        return (self.start, *self.turns)

    @property
    def directions(self) -> list[str]:
        """Where one looks after each turn, the start included."""
        found = [DIRECTIONS.index(self.start)]
        for turn in self.turns:
            found.append((found[-1] + _QUARTERS[turn]) % len(DIRECTIONS))
        return [DIRECTIONS[at] for at in found]

    @property
    def answer(self) -> str:
        """The last direction."""
        return self.directions[-1]

    @property
    def prompt(self) -> str:
        """What the user writes."""
        return _WORDINGS[self.wording].format(start=self.start, turns=", ".join(self.turns))


def draw_walk(rng: random.Random) -> Walk:
    """Draw a walk."""
    turns = tuple(rng.choice(list(_QUARTERS)) for _ in range(rng.randint(3, 6)))
    return Walk(rng.choice(DIRECTIONS), turns, rng.randrange(len(_WORDINGS)))


def thought(walk: Walk) -> str:
    """One turn after the other."""
    lines = [f"{turn} is {after}." for turn, after in zip(walk.turns, walk.directions[1:], strict=True)]
    return f"I look {walk.start}. {' '.join(line.capitalize() for line in lines)} So I look {walk.answer}."


def last_direction(answer: str) -> str | None:
    """The last direction that an answer names; what is compared with ``Walk.answer``."""
    named = _DIRECTION.findall(answer.lower())
    return named[-1] if named else None
