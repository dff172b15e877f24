"""Intervals and tests: published values, the ends of the scale, and coverage on simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from axolotl_safety.commands.evaluate import statistics as st


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())


def test_wilson_against_published_values_and_at_the_ends():
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
    for k, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert st.wilson(k, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert st.wilson(20, 20)[1] == 1


@pytest.mark.parametrize("counts", [(12, 2, 50), (5, 2, 40), (1, 0, 30), (40, 45, 100)])
def test_tango_inverts_the_score_test(counts):
    """Both ends solve the score equation, the nuisance share found here by maximising the likelihood numerically."""
    b, c, n = counts

    def score(gap: float) -> float:
        def loss(share: float) -> float:  # the second alone succeeds: share; the first alone: share + gap
            cells = np.array([share + gap, share, 1 - 2 * share - gap])
            return -float(np.dot([b, c, n - b - c], np.log(np.maximum(cells, 1e-300))))

        edges = (max(0.0, -gap), (1 - gap) / 2)
        share = optimize.minimize_scalar(loss, bounds=edges, method="bounded", options={"xatol": 1e-10}).x
        return (b - c - n * gap) / np.sqrt(n * (2 * share + gap - gap**2))

    low, high = st.tango(b, c, n)
    assert score(float(low)) == pytest.approx(1.959964, abs=1e-3)
    assert score(float(high)) == pytest.approx(-1.959964, abs=1e-3)
    assert st.tango(c, b, n) == (pytest.approx(-high), pytest.approx(-low))


def test_tango_where_no_pair_differs_and_where_all_do():
    bound = 1.959964**2 / (100 + 1.959964**2)
    assert st.tango(0, 0, 100) == (pytest.approx(-bound), pytest.approx(bound))
    low, high = st.tango(30, 0, 30)
    assert 0.7 < low < 1 and high == pytest.approx(1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_wilson_covers_what_it_promises(share):
    successes = np.random.default_rng(1).binomial(200, share, size=20_000)
    assert 0.93 <= covered(*st.wilson(successes, 200), share) <= 0.97


@pytest.mark.parametrize("shares", [(0.05, 0.02), (0.2, 0.1), (0.3, 0.3), (0.02, 0.2)])
def test_the_paired_difference_covers_what_it_promises(shares):
    counts = np.random.default_rng(2).multinomial(200, [*shares, 1 - sum(shares)], size=20_000)
    assert 0.93 <= covered(*st.tango(counts[:, 0], counts[:, 1], 200), shares[0] - shares[1]) <= 0.97


def test_the_bootstrap_over_items_covers_where_samples_taken_for_independent_do_not():
    rng = np.random.default_rng(3)
    own, naive = [], []
    for _ in range(1000):
        chance_I = rng.beta(0.5, 0.3, size=40)
        values_IN = rng.random((40, 8)) < chance_I[:, None]
        own.append(st.bootstrap_interval([values_IN.mean(1)], draws=300))
        naive.append([float(end) for end in st.wilson(values_IN.sum(), values_IN.size)])
    assert 0.93 <= covered(*np.array(own).T, 0.625) <= 0.97
    assert covered(*np.array(naive).T, 0.625) < 0.7


def test_the_bootstrap_of_paired_differences_and_of_means_over_sets_covers():
    rng = np.random.default_rng(4)
    one, many = [], []
    for _ in range(600):
        base_I = rng.beta(2, 1, size=40)
        gaps = [
            ((rng.random((40, 4)) < base_I[:, None]).mean(1) - (rng.random((40, 4)) < 0.9 * base_I[:, None]).mean(1))
            for _ in range(2)
        ]
        one.append(st.bootstrap_interval(gaps[:1], draws=300))
        many.append(st.bootstrap_interval(gaps, draws=300))
    assert 0.925 <= covered(*np.array(one).T, 0.1 * 2 / 3) <= 0.975
    assert 0.925 <= covered(*np.array(many).T, 0.1 * 2 / 3) <= 0.975


def test_no_interval_collapses_where_nothing_differs():
    same = np.ones((50, 1))
    assert st.rate(same).low < 0.95 and st.rate(np.ones((50, 4))).low < 0.95
    for values in (same, np.ones((50, 4))):
        found, p_value, _ = st.paired_difference(values, values)
        assert found.low < -0.03 and found.high > 0.03 and p_value == 1
    found = st.mean_of_sets([np.zeros(50), np.zeros(30)])
    assert found.low < -0.05 and found.high > 0.05


def test_the_right_test_is_chosen():
    rng = np.random.default_rng(6)
    plain = (rng.random((80, 1)) < 0.5).astype(float)
    assert st.rate(plain).method == "Wilson" and st.paired_difference(plain, 1 - plain)[2] == "McNemar, exact"
    scores = rng.random((80, 1))  # an F1 of a foreign task is no count
    found, p_value, test = st.paired_difference(scores + 0.5, scores)
    assert (st.rate(scores).method, test) == ("bootstrap over items", "sign flips over items")
    assert found.value == pytest.approx(0.5) and p_value < 0.01
    with pytest.raises(ValueError, match="pair up"):
        st.paired_difference(plain, plain[:5])


def test_sign_flips_agree_with_the_exact_test():
    gaps = np.array([1.0] * 9 + [-1.0] * 2)
    assert st.sign_flip_test(gaps) == pytest.approx(stats.binomtest(9, 11).pvalue)
