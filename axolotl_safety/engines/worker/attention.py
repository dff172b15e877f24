"""Attention of a decode step on a CPU, without a copy of keys and values per query head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def use_grouped_attention() -> None:
    """From now on transformers' ``sdpa`` is `grouped_attention`, in this process."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = grouped_attention


def grouped_attention(
    module: nn.Module, query_BHTD: Tensor, key_BGSD: Tensor, value_BGSD: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' ``sdpa``, but for one new token per row, a mask, and query heads that share keys.

    There transformers copies keys and values once per query head (``repeat_kv``), in every layer of every step. The
    heads of a group see the same columns, so they can as well stand where the queries of several tokens do.

    Args:
        module: the attention layer.
        query_BHTD: batch, query heads, new tokens, head dimension.
        key_BGSD: batch, groups (key heads), columns, head dimension.
        value_BGSD: likewise.
        mask: what a query sees, one for all heads.
        options: ``scaling``, ``dropout`` and what else transformers passes.

    Returns:
        Output of shape (B, T, H, D), and None for the weights.
    """
    batch, heads, new, _ = query_BHTD.shape
    groups = key_BGSD.shape[1]
    shared = mask is not None and mask.dim() == 4 and mask.shape[1:3] == (1, 1)
    if new != 1 or groups == heads or not shared or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query_BHTD, key_BGSD, value_BGSD, mask, **options)
    query_BGQD = query_BHTD.reshape(batch, groups, heads // groups, -1)
    output_BGQD = torch.nn.functional.scaled_dot_product_attention(
        query_BGQD, key_BGSD, value_BGSD, attn_mask=mask, scale=options.get("scaling")
    )
    return output_BGQD.reshape(batch, 1, heads, -1), None
