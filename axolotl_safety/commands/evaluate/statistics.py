"""Intervals and paired tests at the 95 % level. Shares, not percentages; letters in names: I items, N samples per item.

`wilson` and `tango` broadcast over leading axes, because simulations need them over and over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit
from scipy.stats import binomtest, bootstrap, permutation_test

LEVEL = 0.95
_TOP = 0.5 + LEVEL / 2
_Z = float(ndtri(_TOP))
_DRAWS = 2000
_FLIPS = 9999
_HALVINGS = 50


@dataclass(frozen=True)
class Estimate:
    """A figure with the ends of its interval, and how that was made."""

    value: float
    low: float
    high: float
    method: str


def wilson(successes: Any, trials: Any) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a rate (Wilson, 1927); stays within 0 and 1 and does not collapse at either.

    Args:
        successes: counts, any shape; fractional ones are allowed, which scipy's does not take.
        trials: counts above 0 that broadcast against them.
    """
    z2 = _Z**2
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    centre = (k + z2 / 2) / (n + z2)
    half = _Z / (n + z2) * np.sqrt(k * (n - k) / n + z2 / 4)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def tango(only_first: Any, only_second: Any, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a difference of paired rates (Tango, Statistics in Medicine 17, 1998, eq. 6-8).

    Unlike a bootstrap it does not collapse where no pair differs: with none of n it is +-z^2 / (n + z^2).

    Args:
        only_first: pairs in which only the first succeeds, any shape.
        only_second: pairs in which only the second succeeds.
        pairs: all pairs.

    Returns:
        Lower and upper ends of (rate of the first) - (rate of the second).
    """
    b, c, n = np.broadcast_arrays(*(np.asarray(count, dtype=float) for count in (only_first, only_second, pairs)))
    return _tango_end(b, c, n), -_tango_end(c, b, n)


def _tango_end(b: np.ndarray, c: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The smallest difference that the score test does not reject, by halving; the score falls with the difference."""
    low, high = np.full(b.shape, -1.0), (b - c) / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rejected = _tango_score(b, c, n, middle) > _Z
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return high


def _tango_score(b: np.ndarray, c: np.ndarray, n: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Tango's statistic: the gap over its standard deviation under the null, nuisance share estimated by maximum
    likelihood given the difference."""
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    share = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0)) - linear) / (4 * n)
    variance = n * np.maximum(2 * share + difference * (1 - difference), 0)
    gap = b - c - n * difference
    certain = np.where(gap > 0, np.inf, np.where(gap < 0, -np.inf, 0.0))  # no variance is left
    return np.where(variance > 0, gap / np.sqrt(np.where(variance > 0, variance, 1)), certain)


def bootstrap_interval(groups: Sequence[np.ndarray], draws: int = _DRAWS) -> tuple[float, float]:
    """Percentile interval of the mean of the groups' means; whole items are resampled, each within its group.

    Samples of one item are alike, so that an item enters by its mean. The quantiles are moved outwards as a
    t-interval's are (Hesterberg, The American Statistician 69, 2015, 5.3): the plain percentile interval is too short
    for few items.

    Args:
        groups: per group one value per item.
        draws: resamples.
    """
    fewest = min(map(len, groups))
    tail = float(ndtr(-math.sqrt(fewest / (fewest - 1)) * stdtrit(fewest - 1, _TOP))) if fewest > 1 else 0.0
    samples = tuple(one_I if len(one_I) > 1 else np.repeat(one_I, 2) for one_I in groups)  # scipy takes two or more

    def mean(*drawn: np.ndarray, axis: int) -> np.ndarray:
        return sum(one.mean(axis=axis) for one in drawn) / len(drawn)

    options = {"n_resamples": draws, "confidence_level": 1 - 2 * tail, "method": "percentile"}
    low, high = bootstrap(samples, mean, rng=np.random.default_rng(0), **options).confidence_interval
    return float(low), float(high)


def sign_flip_test(differences_I: np.ndarray) -> float:
    """Two-sided p-value that paired differences are symmetric around 0: all flips of their signs, or many at random."""
    known_I = np.asarray(differences_I, dtype=float)
    known_I = known_I[known_I != 0]
    if len(known_I) < 2:
        return 1.0
    rng = np.random.default_rng(0)
    found = permutation_test(
        (known_I,), np.sum, permutation_type="samples", vectorized=True, n_resamples=_FLIPS, batch=1000, rng=rng
    )
    return float(found.pvalue)


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def rate(values_IN: np.ndarray) -> Estimate:
    """A share with its interval: Wilson's for one sample per item, else a bootstrap over items.

    Args:
        values_IN: 0 or 1 (scores between are bootstrapped), one row per item.

    Raises:
        ValueError: there are no outcomes.
    """
    values = np.asarray(values_IN, dtype=float)
    if values.size == 0:
        raise ValueError("no outcomes, so there is no rate")
    items, samples = values.shape
    mean = float(values.mean())
    plain = samples == 1 and _binary(values)
    if plain or np.ptp(values.mean(axis=1)) == 0:  # items that all agree tell the bootstrap nothing
        low, high = wilson(mean * items, items)
        return Estimate(mean, float(low), float(high), "Wilson" if plain else "Wilson, n = items")
    return Estimate(mean, *bootstrap_interval([values.mean(axis=1)]), "bootstrap over items")


def paired_difference(first_IN: np.ndarray, second_IN: np.ndarray) -> tuple[Estimate, float, str]:
    """Share of the first minus share of the second on the same items.

    Args:
        first_IN: 0 or 1, one row per item.
        second_IN: likewise, the same items in the same order.

    Returns:
        The difference, a two-sided p-value, and the name of the test.

    Raises:
        ValueError: the two do not pair up, or are empty.
    """
    first, second = np.asarray(first_IN, dtype=float), np.asarray(second_IN, dtype=float)
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"outcomes of shape {first.shape} and {second.shape} do not pair up")
    items, samples = first.shape
    gaps_I = first.mean(axis=1) - second.mean(axis=1)
    mean = float(gaps_I.mean())
    if samples == 1 and _binary(first) and _binary(second):
        b, c = int((gaps_I > 0).sum()), int((gaps_I < 0).sum())
        low, high = tango(b, c, items)
        p_value = (
            float(binomtest(b, b + c).pvalue) if b + c else 1.0
        )  # of the pairs that differ, either way is as likely
        return Estimate(mean, float(low), float(high), "Tango"), p_value, "McNemar, exact"
    return mean_of_sets([gaps_I], "bootstrap over items"), sign_flip_test(gaps_I), "sign flips over items"


def mean_of_sets(gaps: Sequence[np.ndarray], method: str = "bootstrap over items within sets") -> Estimate:
    """Mean over sets of each set's mean, every set counting the same; items are resampled within their sets.

    Where no item differs from another, as many may differ elsewhere as a rate of 0 can hide.

    Args:
        gaps: per set one difference per item, within -1 and 1.
        method: what the bootstrap is called.
    """
    mean = float(np.mean([gaps_I.mean() for gaps_I in gaps]))
    if all(np.ptp(gaps_I) == 0 for gaps_I in gaps):
        half = float(wilson(0, min(map(len, gaps)))[1])
        return Estimate(mean, max(mean - half, -1.0), min(mean + half, 1.0), "Wilson of no spread")
    return Estimate(mean, *bootstrap_interval(gaps), method)
