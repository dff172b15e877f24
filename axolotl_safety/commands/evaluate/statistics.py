"""Intervals and paired tests. Shares, not percentages; letters in names: I items, N samples per item, S seeds.

Everything that is needed over and over in simulations broadcasts over leading axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
_DRAWS = 2000
_HALVINGS = 50


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
        method: how the interval was made.
    """

    value: float
    low: float
    high: float
    method: str


def _z(level: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(0.5 + level / 2))


def wilson(successes: Any, trials: Any, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a rate (Wilson, 1927); stays within 0 and 1 and does not collapse at either.

    Args:
        successes: counts, any shape; fractional ones are allowed.
        trials: counts above 0 that broadcast against them.
        level: of the interval.

    Returns:
        Lower and upper ends.
    """
    z2 = _z(level) ** 2
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    centre = (k + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(k * (n - k) / n + z2 / 4)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test: the discordant pairs fall either way like a fair coin."""
    pairs = only_first + only_second
    tail = sum(math.comb(pairs, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**pairs)


def tango(only_first: Any, only_second: Any, pairs: Any, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a difference of paired rates (Tango, Statistics in Medicine 17, 1998, eq. 6-8).

    Unlike a bootstrap it does not collapse where no pair differs: with none of n it is +-z^2 / (n + z^2).

    Args:
        only_first: pairs in which only the first succeeds, any shape.
        only_second: pairs in which only the second succeeds.
        pairs: all pairs.
        level: of the interval.

    Returns:
        Lower and upper ends of (rate of the first) - (rate of the second).
    """
    b, c, n = np.broadcast_arrays(*(np.asarray(count, dtype=float) for count in (only_first, only_second, pairs)))
    z = _z(level)
    return _tango_end(b, c, n, z), -_tango_end(c, b, n, z)


def _tango_end(b: np.ndarray, c: np.ndarray, n: np.ndarray, z: float) -> np.ndarray:
    """The smallest difference that the score test does not reject, by halving; the score falls with the difference."""
    low, high = np.full(b.shape, -1.0), (b - c) / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rejected = _tango_score(b, c, n, middle) > z
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


def cluster_bootstrap(
    values_IN: np.ndarray, level: float = LEVEL, draws: int = _DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a mean, resampling whole items, since samples of one item are alike.

    The quantiles are moved outwards as a t-interval's are (Hesterberg, The American Statistician 69, 2015, 5.3): the
    plain percentile interval is too short for few items.

    Args:
        values_IN: outcomes; each item's mean counts the same.
        level: of the interval.
        draws: resamples.
        seed: of the resampling.
    """
    means_I = np.asarray(values_IN, dtype=float).mean(axis=1)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(means_I), np.full(len(means_I), 1 / len(means_I)), size=draws)
    return _expanded_quantiles(counts @ means_I / len(means_I), len(means_I), level)


def _expanded_quantiles(means: np.ndarray, items: int, level: float) -> tuple[float, float]:
    from scipy.special import ndtr, stdtrit

    if items < 2:
        return float(means.min()), float(means.max())
    tail = float(ndtr(-math.sqrt(items / (items - 1)) * stdtrit(items - 1, 0.5 + level / 2)))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def sign_flip_test(differences_I: np.ndarray, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value that paired differences are symmetric around 0, by flipping their signs at random."""
    known_I = np.asarray(differences_I, dtype=float)
    known_I = known_I[known_I != 0]
    if not len(known_I):
        return 1.0
    signs = np.random.default_rng(seed).integers(0, 2, size=(draws, len(known_I))) * 2 - 1
    extreme = np.abs(signs @ known_I) >= abs(known_I.sum()) - 1e-9
    return float((extreme.sum() + 1) / (draws + 1))


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def rate(values_IN: np.ndarray, level: float = LEVEL) -> Estimate:
    """A share with its interval: Wilson's for one sample per item, else a bootstrap over items.

    Args:
        values_IN: 0 or 1 (scores between are bootstrapped), one row per item.
        level: of the interval.

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
        low, high = wilson(mean * items, items, level)
        return Estimate(mean, float(low), float(high), "Wilson" if plain else "Wilson, n = items")
    return Estimate(mean, *cluster_bootstrap(values, level), "bootstrap over items")


def paired_difference(first_IN: np.ndarray, second_IN: np.ndarray, level: float = LEVEL) -> tuple[Estimate, float, str]:
    """Share of the first minus share of the second on the same items.

    Args:
        first_IN: 0 or 1, one row per item.
        second_IN: likewise, the same items in the same order.
        level: of the interval.

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
        low, high = tango(b, c, items, level)
        return Estimate(mean, float(low), float(high), "Tango"), mcnemar_exact(b, c), "McNemar, exact"
    if np.ptp(gaps_I) == 0:
        found = _no_spread(mean, items, level)
    else:
        found = Estimate(mean, *cluster_bootstrap(gaps_I[:, None], level), "bootstrap over items")
    return found, sign_flip_test(gaps_I), "sign flips over items"


def _no_spread(mean: float, items: int, level: float) -> Estimate:
    """Where no item differs from another, as many may differ elsewhere as a rate of 0 can hide."""
    half = float(wilson(0, items, level)[1])
    return Estimate(mean, max(mean - half, -1.0), min(mean + half, 1.0), "Wilson of no spread")


def mean_of_sets(gaps: list[np.ndarray], level: float = LEVEL, draws: int = _DRAWS, seed: int = 0) -> Estimate:
    """Mean over sets of each set's mean, every set counting the same; items are resampled within their sets.

    Args:
        gaps: per set one difference per item.
        level: of the interval.
        draws: resamples.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(draws)
    if all(np.ptp(gaps_I) == 0 for gaps_I in gaps):
        return _no_spread(float(np.mean([gaps_I.mean() for gaps_I in gaps])), min(map(len, gaps)), level)
    for gaps_I in gaps:
        counts = rng.multinomial(len(gaps_I), np.full(len(gaps_I), 1 / len(gaps_I)), size=draws)
        total += counts @ gaps_I / len(gaps_I)
    mean = float(np.mean([gaps_I.mean() for gaps_I in gaps]))
    low, high = _expanded_quantiles(total / len(gaps), min(len(gaps_I) for gaps_I in gaps), level)
    return Estimate(mean, low, high, "bootstrap over items within sets")


def mean_over_seeds(gaps_SI: np.ndarray, level: float = LEVEL) -> Estimate:
    """Mean difference when both the seeds and the items are samples of what could have been drawn.

    Crossed random effects by the method of moments: the variance of the mean is (MS_seeds + MS_items - MS_rest) /
    (S I), its degrees of freedom are Satterthwaite's, so that five seeds are not taken for an infinity of them.

    Args:
        gaps_SI: one difference per seed and item; with one seed, only the items' spread is known.
        level: of the interval.
    """
    from scipy.special import stdtrit

    gaps = np.asarray(gaps_SI, dtype=float)
    seeds, items = gaps.shape
    mean = float(gaps.mean())
    seed_means_S, item_means_I = gaps.mean(axis=1), gaps.mean(axis=0)
    parts: list[tuple[float, float]] = []  # mean square with its sign, degrees of freedom
    if seeds > 1:
        parts.append((items * float(seed_means_S.var(ddof=1)), seeds - 1))
    if items > 1:
        parts.append((seeds * float(item_means_I.var(ddof=1)), items - 1))
    if seeds > 1 and items > 1:
        rest = gaps - seed_means_S[:, None] - item_means_I[None, :] + mean
        parts.append((-float((rest**2).sum()) / ((seeds - 1) * (items - 1)), (seeds - 1) * (items - 1)))
    total = max(sum(square for square, _ in parts), *(square for square, _ in parts), 0.0) if parts else 0.0
    name = "t over seeds and items" if seeds > 1 else "t over items, one seed"
    spread = sum(square**2 / freedom for square, freedom in parts)
    if total == 0 or spread == 0:
        return Estimate(mean, mean, mean, name)
    half = float(stdtrit(total**2 / spread, 0.5 + level / 2)) * math.sqrt(total / (seeds * items))
    return Estimate(mean, mean - half, mean + half, name)
