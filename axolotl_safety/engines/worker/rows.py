"""A completion in the making, its first pass through the model, and the booking of its tokens."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from items import GenerateItem, ScoreItem, draw_key, failure
from loading import Loaded
from torch import Tensor
from transformers.cache_utils import Cache

Send = Callable[[dict[str, Any]], None]

_MEMORY_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")


@dataclass
class Row:
    """A completion in the making. It survives the loss of its cache: prompt and tokens are all that is needed."""

    item: GenerateItem
    key: int
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    announced: bool = False

    @staticmethod
    def of(item: GenerateItem) -> Row:
        """A row at its beginning."""
        return Row(item, draw_key(item.seed, item.request_id))

    @property
    def sequence(self) -> list[int]:
        """Prompt and what was drawn so far."""
        return self.item.prompt + self.tokens


Waiting = TypeVar("Waiting", Row, ScoreItem)


def take_group(waiting: deque[Waiting], rows: int, token_budget: int) -> list[Waiting]:
    """Takes rows, or items to score, off the queue for one pass, within so many rows and, with padding, tokens."""
    group: list[Waiting] = []
    longest = 0
    while waiting and len(group) < rows:
        longest = max(longest, len(waiting[0].sequence))
        if group and longest * (len(group) + 1) > token_budget:
            break
        group.append(waiting.popleft())
    return group


def announce(rows: Sequence[Row], send: Send) -> None:
    """Tells that these rows are being worked on, before it happens: what kills us now is one of them."""
    numbers = [row.item.number for row in rows if not row.announced]
    for row in rows:
        row.announced = True
    if numbers:
        send({"type": "started", "ids": numbers})


def prefill(loaded: Loaded, sequences: Sequence[list[int]]) -> tuple[Tensor, Cache, Tensor]:
    """Runs whole sequences, padded on the left.

    Returns:
        Logits after each sequence (B, V), the cache, and the mask (B, T) that is 1 on tokens.
    """
    lengths = [len(sequence) for sequence in sequences]
    width = max(lengths)
    padded = [[0] * (width - len(sequence)) + sequence for sequence in sequences]
    ids_BT = torch.tensor(padded, device=loaded.device)
    pads_B1 = torch.tensor([[width - length] for length in lengths], device=loaded.device)
    columns_T = torch.arange(width, device=loaded.device)
    mask_BT = (columns_T >= pads_B1).long()
    positions_BT = (columns_T - pads_B1).clamp_(min=0)
    output = loaded.forward(ids_BT, mask_BT, positions_BT, loaded.new_cache())
    return output.logits[:, -1], output.past_key_values, mask_BT


def book(
    rows: Sequence[Row], tokens: Sequence[int], logprobs: Sequence[float]
) -> tuple[list[dict[str, Any]], list[int]]:
    """Appends one drawn token to each row; returns the messages of the rows that ended, and their indices."""
    messages: list[dict[str, Any]] = []
    ended: list[int] = []
    for index, (row, token, logprob) in enumerate(zip(rows, tokens, logprobs, strict=True)):
        item = row.item
        if not math.isfinite(logprob):
            step = len(row.tokens)
            messages.append(failure(item, f"The model's output is not a number at token {step}; try another dtype."))
            ended.append(index)
            continue
        row.tokens.append(token)
        row.logprob += logprob
        stopped = token in item.stop
        if stopped or len(row.tokens) >= item.max_new_tokens:
            finish = "stop" if stopped else "length"
            messages.append(
                {
                    "type": "completion",
                    "id": item.number,
                    "tokens": row.tokens,
                    "finish": finish,
                    "logprob": row.logprob,
                }
            )
            ended.append(index)
    return messages, ended


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out; not all of them have the type for it."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _MEMORY_WORDS)
