"""Which setting of a search is chosen, over several bases, and how many were any good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .fair import Figures, Key, at
from .loop import SHAPES

SMALL_LOSS = 2.0  # points of reasoning that a usable setting may lose to count for a method's width
NEVER = 100.0  # points that a setting without a usable checkpoint is short of at least
GRID = (0, "shipped")  # seed and base of the run that every setting has
ELSEWHERE = ((0, "two0"), (1, "two1"))  # those of the further runs that the finalists have


@dataclass(frozen=True)
class Choice:
    """What a search found for one method and share.

    Attributes:
        key: the setting chosen.
        tried: how many settings were searched.
        usable: how many became usable at some checkpoint with a loss of at most ``SMALL_LOSS``.
        usable_at_end: how many of the searched were so at their end.
    """

    key: Key
    tried: int
    usable: int
    usable_at_end: int


def good(found: Figures) -> bool:
    """Whether a searched setting became usable at a small loss."""
    return found["usable_step"] is not None and found["loss_at_usable"] <= SMALL_LOSS


def good_at_end(found: Figures) -> bool:
    """Whether it still was at the end."""
    return found["end"]["usable"] and found["end"]["loss"] <= SMALL_LOSS


def shortfall(run: Figures) -> float:
    """Points that a searched setting is short of what is wanted: its loss at the first usable checkpoint.

    A setting that never became usable is ``NEVER`` points short, and what it lacks at its end besides.
    """
    if run["usable_step"] is not None:
        return run["loss_at_usable"]
    refusals = [*run["end"]["refusals"], 0.0, 0.0][:3]
    return NEVER + 200 - refusals[0] - refusals[1] + refusals[2] + run["end"]["loss"]


def gridded(found: Mapping[Key, Figures]) -> dict[Key, Figures]:
    """The runs that every setting of a search has."""
    return {key: run for key, run in found.items() if (key.seed, key.base) == GRID}


def finalists(found: Mapping[Key, Figures]) -> list[Key]:
    """The best rate of each shape by the grid, which are worth runs on other bases.

    One run of one setting is noise of several points, so a rate in the middle of a good region is preferred to a lucky
    one: what counts is the mean of its own shortfall and of that averaged over itself and the next lower and the next
    higher rate of its shape. One of each shape, because the best shape of one base can be the worst of another.

    Args:
        found: the searched settings of one method and share; those of the grid count.
    """
    found = gridded(found)

    def order(key: Key) -> tuple[float, float]:
        rates = sorted(other.rate for other in found if other.shape == key.shape)
        near = rates[max(0, rates.index(key.rate) - 1) : rates.index(key.rate) + 2]
        short = [shortfall(run) for other, run in found.items() if other.shape == key.shape and other.rate in near]
        return (shortfall(found[key]) + sum(short) / len(short)) / 2, key.rate

    shapes = sorted({key.shape for key in found})
    return [min((key for key in found if key.shape == shape), key=order) for shape in shapes]


def further(found: Mapping[Key, Figures]) -> list[Key]:
    """The runs of the finalists on other bases."""
    return [at(key, key.share, seed, base) for seed, base in ELSEWHERE for key in finalists(found)]


def choose(found: Mapping[Key, Figures]) -> Choice:
    """The finalist that falls short least over the bases; at a tie the one that is good at the end more often.

    Args:
        found: the searched settings of one method and share: a grid on one base, its finalists on others as well.
            Where a finalist lacks a run, the grid alone decides.
    """
    tried, last = gridded(found).values(), finalists(found)
    places = [GRID, *ELSEWHERE] if all(key in found for key in further(found)) else [GRID]

    def order(key: Key) -> tuple[float, ...]:
        runs = [found[at(key, key.share, seed, base)] for seed, base in places]
        short = sum(map(shortfall, runs)) / len(runs)
        return short, -sum(map(good_at_end, runs)), key.rate

    best = min(last, key=order)
    return Choice(best, len(tried), sum(map(good, tried)), sum(map(good_at_end, tried)))


def grid(method: str, share: int, shapes: Sequence[str]) -> list[Key]:
    """The settings that a search tries."""
    return [Key(method, share, shape, rate, *GRID) for shape in shapes for rate in SHAPES[shape].rates]
