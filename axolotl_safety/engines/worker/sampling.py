"""Draws tokens. A draw depends on (seed, request id, step) and the row's own logits, never on batch mates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from items import GenerateItem
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_NUCLEUS_GUESS = 1024  # the nucleus nearly always lies within this many tokens, which spares a sort of the vocabulary
_BLOCK = 512


def uniforms(keys_B: np.ndarray, steps_B: np.ndarray) -> np.ndarray:
    """One number in (0, 1) per row: splitmix64 counted by step.

    Args:
        keys_B: uint64, from `draw_key`.
        steps_B: uint64, index of the token to draw.

    Returns:
        float64 of shape (B,).
    """
    z_B = keys_B + (steps_B + np.uint64(1)) * _GOLDEN
    z_B = (z_B ^ (z_B >> np.uint64(30))) * _MIX_1
    z_B = (z_B ^ (z_B >> np.uint64(27))) * _MIX_2
    z_B = z_B ^ (z_B >> np.uint64(31))
    # 52 bits and a half: exact in float64, never 0 and never 1.
    return ((z_B >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


@dataclass(frozen=True)
class Warp:
    """The sampling parameters of a batch, one entry per row. ``temperature_B1`` is 1 where a row is greedy."""

    keys_B: np.ndarray
    greedy_B: Tensor
    temperature_B1: Tensor
    top_k_B: Tensor
    top_p_B: Tensor
    all_greedy: bool
    any_greedy: bool
    any_temperature: bool
    max_top_k: int
    any_top_p: bool

    @staticmethod
    def of(items: Sequence[GenerateItem], keys: Sequence[int], device: torch.device) -> Warp:
        """Gathers the parameters of the rows' items."""
        greedy = [item.temperature == 0 for item in items]
        # Below this a division overflows float32 logits; the draw is the greedy one long before.
        temperature = [1.0 if item.temperature == 0 else max(item.temperature, 1e-4) for item in items]
        return Warp(
            keys_B=np.array(keys, dtype=np.uint64),
            greedy_B=torch.tensor(greedy, device=device),
            temperature_B1=torch.tensor(temperature, device=device)[:, None],
            top_k_B=torch.tensor([item.top_k for item in items], device=device),
            top_p_B=torch.tensor([item.top_p for item in items], device=device, dtype=torch.float64),
            all_greedy=all(greedy),
            any_greedy=any(greedy),
            any_temperature=any(value != 1.0 for value in temperature),
            max_top_k=max(item.top_k for item in items),
            any_top_p=any(item.top_p < 1 for item in items),
        )


def sample(logits_BV: Tensor, warp: Warp, steps: Sequence[int]) -> tuple[list[int], list[float]]:
    """Draws one token per row.

    Args:
        logits_BV: the model's raw logits.
        warp: the rows' parameters.
        steps: per row, the index of the token to draw.

    Returns:
        Token ids, and their log-probabilities in nats at temperature 1 over the whole vocabulary. A row whose logits
        are not usable (NaN, or infinite upwards) has the log-probability NaN.
    """
    logits_BV = logits_BV.float()
    normaliser_B = logits_BV.logsumexp(-1)
    if warp.all_greedy:
        tokens_B = logits_BV.argmax(-1)
    else:
        tokens_B = _draw(logits_BV, warp, steps)
        if warp.any_greedy:
            tokens_B = torch.where(warp.greedy_B, logits_BV.argmax(-1), tokens_B)
    logprobs_B = logits_BV.gather(-1, tokens_B[:, None])[:, 0] - normaliser_B
    # One transfer for both; token ids are exact in float64.
    tokens, logprobs = torch.stack((tokens_B.double(), logprobs_B.double())).tolist()
    return [int(token) for token in tokens], logprobs


def _draw(logits_BV: Tensor, warp: Warp, steps: Sequence[int]) -> Tensor:
    scaled_BV = logits_BV / warp.temperature_B1 if warp.any_temperature else logits_BV
    if warp.max_top_k or warp.any_top_p:
        cutoff_B1 = cutoff(scaled_BV, warp)
        scaled_BV = scaled_BV.masked_fill(scaled_BV < cutoff_B1, -torch.inf)
    weights_BV = (scaled_BV - scaled_BV.amax(-1, keepdim=True)).exp_()
    u_B = torch.from_numpy(uniforms(warp.keys_B, np.asarray(steps, dtype=np.uint64))).to(logits_BV.device)
    return invert(weights_BV, u_B)


def cutoff(scaled_BV: Tensor, warp: Warp) -> Tensor:
    """The smallest logit that top-k and then top-p keep, per row, as (B, 1); -inf keeps all.

    Ties with the last kept token are kept too, as in Hugging Face's top-k: so the result does not hang on the order in
    which a sort puts equals.
    """
    vocabulary = scaled_BV.shape[-1]
    width = max(warp.max_top_k, _NUCLEUS_GUESS) if warp.any_top_p else warp.max_top_k
    top_BK = scaled_BV.topk(min(width, vocabulary), dim=-1).values
    k_B1 = warp.top_k_B.clamp(1, top_BK.shape[-1])[:, None]
    keep_all_B1 = (warp.top_k_B == 0)[:, None]
    cutoff_B1 = top_BK.gather(-1, k_B1 - 1).masked_fill(keep_all_B1, -torch.inf)
    if not warp.any_top_p:
        return cutoff_B1
    kept_BV = scaled_BV.masked_fill(scaled_BV < cutoff_B1, -torch.inf) if warp.max_top_k else scaled_BV
    mass_B1 = kept_BV.double().logsumexp(-1, keepdim=True)
    while True:
        probs_BK = (top_BK.double() - mass_B1).exp().masked_fill(top_BK < cutoff_B1, 0.0)
        cumulated_BK = probs_BK.cumsum(-1)
        # A token stays while what stands before it has not reached top_p; the first always stays.
        stays_BK = cumulated_BK - probs_BK < warp.top_p_B[:, None]
        short_B = (cumulated_BK[:, -1] < warp.top_p_B) & (warp.top_p_B < 1)
        if top_BK.shape[-1] == vocabulary or not bool(short_B.any()):
            break
        top_BK = scaled_BV.sort(dim=-1, descending=True).values
    last_B1 = stays_BK.sum(-1, keepdim=True).clamp(min=1) - 1
    nucleus_B1 = top_BK.gather(-1, last_B1).masked_fill((warp.top_p_B >= 1)[:, None], -torch.inf)
    return torch.maximum(cutoff_B1, nucleus_B1)


def invert(weights_BV: Tensor, u_B: Tensor) -> Tensor:
    """Inverse of the cumulative distribution: the token in whose share of [0, 1) each ``u`` falls, in index order.

    Sums are float64. A large vocabulary is summed in blocks first, so that no float64 copy of it is made.

    Args:
        weights_BV: not negative, not normalised.
        u_B: float64 in (0, 1).

    Returns:
        Token ids of shape (B,).
    """
    batch, vocabulary = weights_BV.shape
    if vocabulary <= 4 * _BLOCK:
        return _invert_small(weights_BV, u_B)
    if vocabulary % _BLOCK:
        weights_BV = torch.nn.functional.pad(weights_BV, (0, _BLOCK - vocabulary % _BLOCK))
    blocks_BNK = weights_BV.view(batch, -1, _BLOCK)
    sums_BN = blocks_BNK.sum(-1, dtype=torch.float64)
    block_B = _invert_small(sums_BN, u_B)
    rows_B = torch.arange(batch, device=weights_BV.device)
    before_B = sums_BN.cumsum(-1)[rows_B, block_B] - sums_BN[rows_B, block_B]
    # Rounding may leave the block by a hair on either side.
    rest_B = ((u_B * sums_BN.sum(-1) - before_B) / sums_BN[rows_B, block_B]).clamp_(0.0, 1.0)
    return block_B * _BLOCK + _invert_small(blocks_BNK[rows_B, block_B], rest_B)


def _invert_small(weights_BN: Tensor, u_B: Tensor) -> Tensor:
    cumulated_BN = weights_BN.cumsum(-1, dtype=torch.float64)
    target_B1 = (u_B * cumulated_BN[:, -1])[:, None].contiguous()
    found_B = torch.searchsorted(cumulated_BN, target_B1, right=True)[:, 0]
    # Rounding can put the target at the very end: the last entry that has any weight is meant then.
    last_B = weights_BN.shape[-1] - 1 - (weights_BN > 0).flip(-1).byte().argmax(-1)
    return torch.minimum(found_B, last_B)
