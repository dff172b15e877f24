"""The decode loops: a batch that rows join and leave while it runs, and one batch after the other."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

import torch
from items import GenerateItem, failure
from loading import Loaded
from rows import Row, Send, announce, book, is_out_of_memory, prefill, take_group
from sampling import Warp, sample
from slots import SlotCache
from torch import Tensor
from transformers.cache_utils import Cache

LOG = logging.getLogger(__name__)
_PREFILL_TOKENS = 8192
_STATIC_PREFILL_TOKENS = 32768
_ADMIT_SHARE = 8  # a prefill interrupts the batch: wait until an eighth of the slots is free
_DROP_SHARE = 4  # dropping rows copies the cache: wait until a quarter of it is idle


class Decoder:
    """Draws completions for one model, `step` by step.

    Subclasses say how a batch advances; this class keeps the queue and survives lack of memory: the batch is halved,
    its rows go back to the queue with what they have drawn, and as draws depend on (seed, request, step) alone they go
    on where they stopped.
    """

    def __init__(self, loaded: Loaded, batch_size: int, send: Send) -> None:
        self.loaded = loaded
        self.send = send
        self.tokens_drawn = 0
        self._batch_size = self._limit = batch_size
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._joining: list[Row] = []
        self._calm = 0  # completions since memory last ran out
        self.short_of_memory = False  # memory ran out on one row alone

    @property
    def busy(self) -> bool:
        """Whether there is something to decode."""
        return bool(self._waiting or self._rows)

    @property
    def active(self) -> int:
        """Rows in the batch."""
        return len(self._rows)

    @property
    def items(self) -> list[GenerateItem]:
        """Those without a result."""
        return [row.item for row in (*self._rows, *self._waiting)]

    def add(self, item: GenerateItem) -> None:
        """Queues an item."""
        self._waiting.append(Row.of(item))

    def cancel(self) -> None:
        """Forgets every row."""
        self._waiting.clear()
        self._rows, self._joining = [], []
        self._drop_cache()

    @torch.no_grad()
    def step(self) -> list[dict[str, Any]]:
        """One prefill or one token for every row; returns messages."""
        try:
            messages = self._advance()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            messages = None
        if messages is None:  # outside of the handler, whose traceback keeps the tensors alive
            return self._shed()
        self.short_of_memory = False
        self._calm += sum(message["type"] == "completion" for message in messages)
        if self._limit < self._batch_size and self._calm >= 2 * self._limit:
            # The longest come first, so room is found again as the run goes on.
            self._limit, self._calm = min(self._batch_size, self._limit + max(1, self._limit // 2)), 0
        return messages

    def requeue(self) -> int:
        """Gives the batch's memory back. Its rows go back to the queue; returns how many."""
        rows = self._rows + self._joining
        self._waiting.extendleft(reversed(rows))
        self._rows, self._joining = [], []
        self._drop_cache()
        torch.cuda.empty_cache()  # so that what comes next finds room in one piece
        return len(rows)

    def _shed(self) -> list[dict[str, Any]]:
        count = self.requeue()
        self._calm = 0
        if count > 1:
            self._limit = count // 2
            LOG.warning("out of memory with %d rows; going on with %d", count, self._limit)
        elif self.short_of_memory:
            item = self._waiting.popleft().item
            self.short_of_memory = False
            need = len(item.prompt) + item.max_new_tokens
            return [failure(item, f"Out of memory on this request alone (up to {need} tokens); shorten it.")]
        else:
            self.short_of_memory = True  # a last try follows, once other models have made room
        return []

    def _advance(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def _drop_cache(self) -> None:
        raise NotImplementedError


class ContinuousDecoder(Decoder):
    """For models whose cache keeps every column: rows join as soon as others leave."""

    _cache: SlotCache | None = None
    _warp: Warp | None = None
    _capacity = 0

    def _drop_cache(self) -> None:
        self._cache = self._warp = None

    def _advance(self) -> list[dict[str, Any]]:
        free = self._limit - len(self._rows)
        enough = min(max(1, self._limit // _ADMIT_SHARE), len(self._waiting))
        if self._waiting and (not self._rows or free >= enough):
            return self._admit(free)
        return self._decode()

    def _admit(self, free: int) -> list[dict[str, Any]]:
        self._joining = group = take_group(self._waiting, free, _PREFILL_TOKENS)
        announce(group, self.send)
        sequences = [row.sequence for row in group]
        logits_BV, prefilled, mask_BT = prefill(self.loaded, sequences)
        steps = [len(row.tokens) for row in group]
        warp = Warp.of([row.item for row in group], [row.key for row in group], self.loaded.device)
        tokens, logprobs = sample(logits_BV, warp, steps)
        del logits_BV
        if self._cache is None or (not self._rows and self._capacity < self._limit):
            self._cache, self._capacity = SlotCache(self._limit), self._limit
        # Join before booking: should memory run out here, the rows draw the same tokens again.
        before = len(self._rows)
        self._cache.join(prefilled, [len(sequence) for sequence in sequences], mask_BT.shape[1])
        self._rows += group
        self._joining = []
        self.tokens_drawn += len(group)
        messages, ended = book(group, tokens, logprobs)
        self._retire([before + index for index in ended], messages)
        self._warp = None
        return messages

    def _decode(self) -> list[dict[str, Any]]:
        assert self._cache is not None
        device = self.loaded.device
        if self._warp is None:
            self._warp = Warp.of([row.item for row in self._rows], [row.key for row in self._rows], device)
        columns_B = torch.tensor(self._cache.lengths, device=device)
        width = self._cache.open_step(columns_B, torch.arange(len(self._rows), device=device))
        ids_B1 = torch.tensor([[row.tokens[-1]] for row in self._rows], device=device)
        mask_BT = torch.arange(width, device=device) <= columns_B[:, None]
        output = self.loaded.forward(ids_B1, mask_BT, columns_B[:, None], self._cache)
        tokens, logprobs = sample(output.logits[:, -1], self._warp, [len(row.tokens) for row in self._rows])
        self._cache.close_step()
        self.tokens_drawn += len(self._rows)
        messages, ended = book(self._rows, tokens, logprobs)
        self._retire(ended, messages)
        return messages

    def _retire(self, ended: list[int], messages: list[dict[str, Any]]) -> None:
        """Takes rows out; ``messages`` are theirs, in the same order."""
        if ended:
            assert self._cache is not None
            broken = [row for row, message in zip(ended, messages, strict=True) if message["type"] == "failure"]
            if broken:
                self._cache.scrub(broken)
            order = self._cache.leave(ended)
            self._rows = [self._rows[index] for index in order]
            self._warp = None


class StaticDecoder(Decoder):
    """For caches that rows cannot join: sliding windows, state-space and hybrid models.

    One batch after the other, padded on the left as `generate` does. Rows that ended are dropped where the cache
    allows it, and else computed along until the batch ends.
    """

    _cache: Cache | None = None
    _mask_BT: Tensor | None = None
    _warp: Warp | None = None

    def _drop_cache(self) -> None:
        self._cache = self._mask_BT = self._warp = None
        self._lanes: list[Row] = []

    def _advance(self) -> list[dict[str, Any]]:
        if not self._rows:
            self._joining = take_group(self._waiting, self._limit, _STATIC_PREFILL_TOKENS)
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
