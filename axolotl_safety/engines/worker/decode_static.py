"""The decode loop for caches that rows cannot join: sliding windows, state-space and hybrid models."""

from __future__ import annotations

from typing import Any

import torch
from decode import Decoder
from rows import Row, announce, book, prefill, take_group
from sampling import Warp, sample
from torch import Tensor
from transformers.cache_utils import Cache

_PREFILL_TOKENS = 32768
_DROP_SHARE = 4  # dropping rows copies the cache: wait until a quarter of it is idle


class StaticDecoder(Decoder):
    """One batch after the other, padded on the left as `generate` does. Rows that ended are dropped where the cache
    allows it, and else computed along until the batch ends."""

    _cache: Cache | None = None
    _mask_BT: Tensor | None = None
    _warp: Warp | None = None

    def _drop_cache(self) -> None:
        self._cache = self._mask_BT = self._warp = None
        self._lanes: list[Row] = []

    def _advance(self) -> list[dict[str, Any]]:
        if not self._rows:
            self._joining = take_group(self._waiting, self._limit, _PREFILL_TOKENS)
            announce(self._joining, self.send)
            logits_BV, self._cache, self._mask_BT = prefill(self.loaded, [row.sequence for row in self._joining])
            self._rows, self._joining = self._joining, []
            self._lanes = list(self._rows)  # what the batch computes; rows that ended stay until they are dropped
            self._warp = None
        else:
            logits_BV = self._forward()
        if self._warp is None:
            self._warp = Warp.of(
                [row.item for row in self._lanes], [row.key for row in self._lanes], self.loaded.device
            )
        tokens, logprobs = sample(logits_BV, self._warp, [len(row.tokens) for row in self._lanes])
        running = {id(row) for row in self._rows}
        places = [place for place, row in enumerate(self._lanes) if id(row) in running]
        rows = [self._lanes[place] for place in places]
        messages, ended = book(rows, [tokens[place] for place in places], [logprobs[place] for place in places])
        self.tokens_drawn += len(rows)
        gone = {id(rows[index]) for index in ended}
        self._rows = [row for row in rows if id(row) not in gone]
        if not self._rows:
            self._drop_cache()
        elif self.loaded.droppable_rows and len(self._rows) <= len(self._lanes) * (1 - 1 / _DROP_SHARE):
            self._compact()
        return messages

    def _forward(self) -> Tensor:
        assert self._mask_BT is not None
        self._mask_BT = torch.cat((self._mask_BT, self._mask_BT.new_ones((len(self._lanes), 1))), dim=1)
        # A row that ended without any token (its output was not a number) is fed a 0 that nobody reads.
        ids_B1 = torch.tensor([[row.tokens[-1] if row.tokens else 0] for row in self._lanes], device=self.loaded.device)
        positions_B1 = self._mask_BT.sum(-1, keepdim=True) - 1
        return self.loaded.forward(ids_B1, self._mask_BT, positions_B1, self._cache).logits[:, -1]

    def _compact(self) -> None:
        assert self._cache is not None and self._mask_BT is not None
        running = {id(row) for row in self._rows}
        kept = [place for place, row in enumerate(self._lanes) if id(row) in running]
        kept_B = torch.tensor(kept, device=self.loaded.device)
        self._cache.batch_select_indices(kept_B)
        self._mask_BT = self._mask_BT[kept_B]
        # Columns that only rows now gone had used stay: a sliding layer counts columns and must not lose any.
        self._lanes = list(self._rows)
        self._warp = None
