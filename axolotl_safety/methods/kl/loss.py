"""Forward KL and cross-entropy from hidden states, with memory that does not grow with the vocabulary.

All functions give means over tokens in nats at temperature 1, with gradients to the policy's hidden states and, where
it is trained, to the head (whose V x D gradient is as large as the head and cannot be avoided). Reference inputs get
no gradient. float64 stays float64; everything lower is accumulated in float32, the logits too. Inside
``torch.autocast`` nothing changes. Second derivatives are not offered.

Source of the loss: ThinkSafe's KL variant (arXiv 2601.23143).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .chunks import (
    CHUNK_BYTES,
    ChunkedMean,
    Head,
    Reference,
    Target,
    Tokens,
    TopK,
    accumulator,
    chunks,
    log_normalise_,
    logsumexp,
)

__all__ = ["CHUNK_BYTES", "Head", "forward_ce", "forward_kl", "forward_kl_top_k", "top_k_logprobs"]


def forward_kl(
    student_hidden_ND: Tensor,
    reference_hidden_ND: Tensor,
    head: Head | Tensor,
    reference_head: Head | Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Mean over tokens of KL(reference || student), ``sum_v p_v (log p_v - log q_v)``.

    Exactly zero when both sides are equal, and never below zero.

    Args:
        student_hidden_ND: last hidden states of the policy, one row per token.
        reference_hidden_ND: likewise of the frozen model; it may be of another width than the policy's.
        head: the policy's output head, or its V x D weight; a head with a bias is not supported.
        reference_head: the frozen model's head where it is another one; a mere weight is scaled and capped as ``head``.
        chunk_bytes: bound on the temporaries; one row of logits per side is the least.

    Returns:
        A scalar, zero for no tokens.

    Raises:
        ValueError: shapes do not fit.
    """
    head = _head(student_hidden_ND, head)
    other = head if reference_head is None else reference_head
    other = other if isinstance(other, Head) else replace(head, weight_VD=other)
    other = _head(reference_hidden_ND, other, "reference_")
    if len(reference_hidden_ND) != len(student_hidden_ND):
        raise ValueError(
            f"student_hidden_ND has {len(student_hidden_ND)} tokens, reference_hidden_ND {len(reference_hidden_ND)}."
        )
    if len(other.weight_VD) != len(head.weight_VD):
        raise ValueError(
            f"the head has {len(head.weight_VD)} vocabulary entries, the reference's {len(other.weight_VD)}."
        )
    return _mean(student_hidden_ND, head, Reference(reference_hidden_ND.detach(), other), chunk_bytes)


def forward_ce(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: Head | Tensor,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """Mean over tokens of ``-log q(target)``; arguments as for `forward_kl`.

    Args:
        targets_N: token ids (int64), each within the vocabulary: leave out ignored positions beforehand.

    Raises:
        ValueError: shapes do not fit.
    """
    head = _head(hidden_ND, head)
    if targets_N.shape != hidden_ND.shape[:1]:
        raise ValueError(f"targets_N has shape {tuple(targets_N.shape)} for {len(hidden_ND)} tokens.")
    return _mean(hidden_ND, head, Tokens(targets_N), chunk_bytes)


def forward_kl_top_k(
    student_hidden_ND: Tensor,
    ids_NK: Tensor,
    logprobs_NK: Tensor,
    rest_N: Tensor,
    head: Head | Tensor,
    chunk_bytes: int = CHUNK_BYTES,
) -> Tensor:
    """KL over the reference's K likeliest tokens and one bucket with the mass of all others.

    Lumping outcomes never raises a KL (the data processing inequality), so this is a lower bound of `forward_kl`, equal
    to it at K = V. What differs within the bucket is not seen.

    Args:
        ids_NK: the reference's likeliest tokens, each once per row.
        logprobs_NK: their log-probabilities.
        rest_N: log of the mass of all others, -inf for none.

    Raises:
        ValueError: shapes do not fit.
    """
    head = _head(student_hidden_ND, head)
    tokens = student_hidden_ND.shape[:1]
    if not ids_NK.shape == logprobs_NK.shape == (*tokens, *ids_NK.shape[1:2]) or rest_N.shape != tokens:
        raise ValueError(
            f"ids_NK {tuple(ids_NK.shape)}, logprobs_NK {tuple(logprobs_NK.shape)} and rest_N {tuple(rest_N.shape)} "
            f"do not fit {tokens[0]} tokens."
        )
    return _mean(student_hidden_ND, head, TopK(ids_NK, logprobs_NK.detach(), rest_N.detach()), chunk_bytes)


@torch.no_grad()
def top_k_logprobs(
    hidden_ND: Tensor,
    head: Head | Tensor,
    k: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `forward_kl_top_k` wants of a reference.

    Returns:
        ``ids_NK`` (int32), ``logprobs_NK`` and ``rest_N``, K the smaller of ``k`` and the vocabulary.
    """
    head = _head(hidden_ND, head)
    (tokens, width), vocabulary = hidden_ND.shape, len(head.weight_VD)
    kind = accumulator(hidden_ND, head.weight_VD)
    k, device = min(k, vocabulary), hidden_ND.device
    ids_NK = torch.empty(tokens, k, dtype=torch.int32, device=device)
    logprobs_NK = torch.empty(tokens, k, dtype=kind, device=device)
    rest_N = torch.empty(tokens, dtype=kind, device=device)
    with torch.autocast(device.type, enabled=False):
        for rows, pieces, (buffer_nV,) in chunks(tokens, vocabulary, width, 1, chunk_bytes, kind, device):
            head.logits(hidden_ND[rows], buffer_nV, pieces)
            log_normalise_(buffer_nV, pieces)
            logprobs_NK[rows], ids_nK = buffer_nV.topk(k, dim=1)
            ids_NK[rows] = ids_nK.int()
            rest_N[rows] = logsumexp(buffer_nV.scatter_(1, ids_nK, -torch.inf), pieces)[:, 0]
    return ids_NK, logprobs_NK, rest_N


def _head(hidden_ND: Tensor, head: Head | Tensor, whose: str = "") -> Head:
    head = head if isinstance(head, Head) else Head(head)
    if hidden_ND.dim() != 2 or head.weight_VD.dim() != 2 or hidden_ND.shape[1] != head.weight_VD.shape[1]:
        raise ValueError(
            f"{whose}hidden states must be tokens x width and the {whose}head vocabulary x width; got "
            f"{tuple(hidden_ND.shape)} and {tuple(head.weight_VD.shape)}."
        )
    if head.soft_cap is not None and not head.soft_cap > 0:
        raise ValueError(f"soft_cap must be above 0, not {head.soft_cap}; leave it out for none.")
    return head


def _mean(hidden_ND: Tensor, head: Head, target: Target, chunk_bytes: int) -> Tensor:
    still = replace(head, weight_VD=head.weight_VD.detach())
    return ChunkedMean.apply(hidden_ND, head.weight_VD, still, target, chunk_bytes, torch.is_grad_enabled())
