"""The sampler follows the warped distribution, and a draw depends on (seed, request, step) alone."""

import numpy as np
import pytest
import torch
from support.engines import WORKER  # noqa: F401  (puts the worker on the path)
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from items import draw_key  # isort: skip
from items import GenerateItem  # isort: skip
from sampling import Warp, cutoff, invert, sample, uniforms

torch.set_num_threads(1)


def warp_of(rows, names=None):
    """A `Warp` for rows of (temperature, top_p, top_k)."""
    names = names or [f"r{i}" for i in range(len(rows))]
    items = [GenerateItem(i, names[i], "m", [1], t, p, k, 1, 0, frozenset()) for i, (t, p, k) in enumerate(rows)]
    return Warp.of(items, [draw_key(0, name) for name in names], torch.device("cpu"))


def hugging_face(logits_BV, temperature, top_p, top_k):
    """Probabilities after transformers' own warpers."""
    scores = TemperatureLogitsWarper(temperature)(None, logits_BV)
    scores = TopKLogitsWarper(top_k)(None, scores) if top_k else scores
    scores = TopPLogitsWarper(top_p)(None, scores) if top_p < 1 else scores
    return scores.softmax(-1)


CASES = [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.0, 0.7, 0), (1.0, 1.0, 5), (0.8, 0.9, 12), (1.5, 0.95, 40), (0.6, 0.95, 20)]


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_warped_distribution(case):
    """Chi-square at 5 sigma; over the whole vocabulary of 50, so every kept token counts."""
    torch.manual_seed(3)
    logits_V = torch.randn(50) * 2
    probs_V = hugging_face(logits_V[None], *case)[0].double()
    draws = 40_000
    counts_V = torch.zeros(50, dtype=torch.float64)
    for block in range(4):
        count = draws // 4
        warp = warp_of([case] * count, [f"{block}-{i}" for i in range(count)])
        tokens, _ = sample(logits_V.expand(count, 50), warp, [0] * count)
        counts_V += torch.bincount(torch.tensor(tokens), minlength=50)
    assert counts_V[probs_V == 0].sum() == 0
    kept_V = probs_V * draws > 5
    expected, observed = probs_V[kept_V] * draws, counts_V[kept_V]
    chi_square, freedom = float(((observed - expected) ** 2 / expected).sum()), int(kept_V.sum()) - 1
    assert chi_square < freedom + 5 * (2 * max(freedom, 1)) ** 0.5


def test_successive_steps_of_one_request_follow_the_distribution_too():
    logits_V = torch.tensor([0.0, 1.0, 2.0, -1.0])
    steps = 8000
    warp = warp_of([(1.0, 1.0, 0)] * steps, ["same"] * steps)
    tokens, _ = sample(logits_V.expand(steps, 4), warp, range(steps))
    counts = torch.bincount(torch.tensor(tokens), minlength=4).double()
    expected = logits_V.double().softmax(-1) * steps
    assert float(((counts - expected) ** 2 / expected).sum()) < 3 + 5 * 6**0.5
    pairs = torch.tensor(tokens[:-1]) * 4 + torch.tensor(tokens[1:])
    joint = (expected[:, None] * expected[None, :] / steps).flatten()
    seen = torch.bincount(pairs, minlength=16).double()
    assert float(((seen - joint) ** 2 / joint).sum()) < 15 + 5 * 30**0.5


@pytest.mark.parametrize("vocabulary", [50, 5000])
def test_what_is_kept_is_what_hugging_face_keeps_row_by_row(vocabulary):
    torch.manual_seed(0)
    # Flat rows need far more than the first 1024 tokens for their nucleus.
    scales = [0.05 if i % 2 else 3.0 for i in range(len(CASES))]
    logits_BV = torch.randn(len(CASES), vocabulary) * torch.tensor(scales)[:, None]
    warp = warp_of(CASES)
    scaled_BV = logits_BV / warp.temperature_B1
    kept_BV = scaled_BV >= cutoff(scaled_BV, warp)
    for i, case in enumerate(CASES):
        wanted_V = hugging_face(logits_BV[i : i + 1], *case)[0] > 0
        # top-p is a comparison of float sums: one token at the very edge may differ
        assert int((kept_BV[i] != wanted_V).sum()) <= (case[1] < 1)


def test_greedy_rows_take_the_largest_beside_others_that_draw():
    torch.manual_seed(0)
    logits_BV = torch.randn(6, 30)
    tokens, logprobs = sample(logits_BV, warp_of([(0.0, 0.5, 3), (1.0, 1.0, 0)] * 3), [0] * 6)
    assert tokens[::2] == logits_BV.argmax(-1)[::2].tolist()
    raw = logits_BV.double().log_softmax(-1)
    assert logprobs == pytest.approx([float(raw[i, token]) for i, token in enumerate(tokens)], abs=1e-5)


def test_a_tiny_top_p_and_a_tiny_temperature_are_greedy():
    torch.manual_seed(0)
    logits_BV = torch.randn(4, 3000)
    best = logits_BV.argmax(-1).tolist()
    assert sample(logits_BV, warp_of([(1.0, 1e-9, 0)] * 4), [0] * 4)[0] == best
    assert sample(logits_BV, warp_of([(1e-30, 1.0, 0)] * 4), [0] * 4)[0] == best
    assert sample(logits_BV, warp_of([(1.0, 1.0, 1)] * 4), [0] * 4)[0] == best


def test_a_row_draws_the_same_in_any_batch():
    torch.manual_seed(0)
    logits_BV = torch.randn(7, 4000)
    rows = CASES
    together, _ = sample(logits_BV, warp_of(rows), list(range(7)))
    for i, row in enumerate(rows):
        alone, _ = sample(logits_BV[i : i + 1], warp_of([row], [f"r{i}"]), [i])
        assert alone == [together[i]]


@pytest.mark.parametrize("vocabulary", [7, 2048, 2049, 10_000])
def test_the_inverse_is_the_plain_one_also_in_blocks(vocabulary):
    torch.manual_seed(1)
    weights_BV = torch.rand(64, vocabulary) * (torch.rand(64, vocabulary) < 0.3)
    weights_BV[:, -1] = 0.5
    u_B = torch.rand(64, dtype=torch.float64)
    u_B[:2] = torch.tensor([2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    tokens_B = invert(weights_BV, u_B)
    cumulated = np.cumsum(weights_BV.double().numpy(), axis=-1)
    for b in range(64):
        plain = np.searchsorted(cumulated[b], float(u_B[b]) * cumulated[b, -1], side="right")
        assert abs(int(tokens_B[b]) - min(plain, vocabulary - 1)) == 0
    assert bool((weights_BV.gather(-1, tokens_B[:, None]) > 0).all())


def test_a_token_without_weight_is_never_drawn_even_at_the_edges():
    weights_BV = torch.zeros(4, 5000)
    weights_BV[:, 1700] = 1e-30
    weights_BV[:, 3100] = 1.0
    u_B = torch.tensor([2.0**-53, 0.5, 1 - 2.0**-53, 0.999], dtype=torch.float64)
    assert set(invert(weights_BV, u_B).tolist()) <= {1700, 3100}


def test_uniform_numbers_are_uniform_and_keyed():
    keys = np.array([draw_key(1, f"r{i}") for i in range(1000)], dtype=np.uint64)
    values = np.stack([uniforms(keys, np.full(1000, step, dtype=np.uint64)) for step in range(50)])
    assert 0 < values.min() and values.max() < 1
    counts = np.histogram(values, bins=100, range=(0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 99 + 5 * (2 * 99) ** 0.5
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.02
    assert draw_key(1, "a") != draw_key(2, "a") != draw_key(2, "b")
    assert draw_key(1, "a") == 0xFFFFFFFFFFFFFFFF & draw_key(1, "a")
