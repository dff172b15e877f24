"""Batches that carry the KL columns along, padded like the labels.

The batch is Axolotl's own: the collator that it would have chosen is called, and our columns are added to its result.
Nothing else is added. With packing a missing attention mask must stay missing, or samples would see each other.
"""

from __future__ import annotations

from typing import Any

import torch

from axolotl_safety.data.types import KL_MASK

KL_INDEX = "kl_index"
FILL = {KL_MASK: 0, KL_INDEX: -1}  # rows of other types have no KL column, or None in it: cross-entropy


class KLCollator:
    """A collator around Axolotl's, for padded and for packed batches."""

    def __init__(self, tokenizer: Any, inner: type, **kwargs: Any):
        """Build the inner collator."""
        self.tokenizer = tokenizer
        self.inner = inner(tokenizer, **kwargs)

    def __call__(self, features: Any, return_tensors: str | None = None) -> Any:
        """The inner collator's batch with ``kl_mask`` (int8, B x T) and, where there is one, ``kl_index`` (int64).

        Args:
            features: samples, one batch row each; or a list of such lists, one batch row of packed samples each; or,
                packed, one flat list that makes a single batch row.
        """
        nested = bool(features) and isinstance(features[0], list)
        inner = [[_plain(s) for s in group] for group in features] if nested else [_plain(s) for s in features]
        batch = self.inner(inner, return_tensors=return_tensors)
        count, length = batch["input_ids"].shape
        groups = features if nested else [features] if count == 1 else [[sample] for sample in features]
        names = [KL_MASK] + [KL_INDEX] * any(KL_INDEX in sample for group in groups for sample in group)
        for name in names:
            rows = [[value for sample in group for value in _column(sample, name)] for group in groups]
            kind = torch.int8 if name == KL_MASK else torch.int64
            batch[name] = torch.stack([self._pad(row, length, FILL[name]) for row in rows]).to(kind)
        return batch

    def _pad(self, row: list[int], length: int, fill: int) -> torch.Tensor:
        rest = [fill] * (length - len(row))
        return torch.tensor(row + rest if self.tokenizer.padding_side == "right" else rest + row, dtype=torch.int64)


def _plain(sample: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sample.items() if key not in FILL}


def _column(sample: dict[str, Any], name: str) -> list[int]:
    """A sample's column, cut to its ids (Axolotl's truncation cuts only the columns that it knows)."""
    length, values = len(sample["input_ids"]), sample.get(name)
    return [FILL[name]] * length if values is None else [int(value) for value in values][:length]


def collator_for(cfg: Any, is_eval: bool) -> tuple[type, dict[str, Any]]:
    """Our collator around the one that Axolotl's causal builder takes for this config."""
    from axolotl.monkeypatch.multipack import SUPPORTED_MULTIPACK_MODEL_TYPES
    from axolotl.utils.collators import (
        BatchSamplerDataCollatorForSeq2Seq,
        DataCollatorForSeq2Seq,
        V2BatchSamplerDataCollatorForSeq2Seq,
    )

    if not (cfg.eval_sample_packing if is_eval else cfg.sample_packing):
        return KLCollator, {"inner": DataCollatorForSeq2Seq}
    numbered = (
        cfg.attn_implementation == "flex_attention"
        or cfg.model_config_type in SUPPORTED_MULTIPACK_MODEL_TYPES
        or (cfg.model_config_type == "llama" and cfg.attn_implementation != "flash_attention_2")
    )
    packed = V2BatchSamplerDataCollatorForSeq2Seq if numbered else BatchSamplerDataCollatorForSeq2Seq
    return KLCollator, {"inner": packed}
