"""log p(response | prompt), without ever holding the logits of a whole batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from items import ScoreItem, failure
from loading import Loaded
from rows import Send, is_out_of_memory, take_group
from torch import Tensor
from transformers.utils import ModelOutput

_BATCH_TOKENS = 8192
_HEAD_POSITIONS = 256


class Scorer:
    """Scores responses for one model, a batch per `step`.

    The decoder runs once per batch; the head then sees `_HEAD_POSITIONS` response positions at a time, so memory does
    not grow with length times vocabulary. The head is the model's own forward with the decoder's output put in place,
    so that soft-capping and logit scales are the model's. Whether that holds is checked on each model's first batch.
    """

    def __init__(self, loaded: Loaded, batch_size: int, send: Send) -> None:
        self.loaded = loaded
        self._send = send
        self._batch_size = self._limit = batch_size
        self._waiting: deque[ScoreItem] = deque()
        self.short_of_memory = False  # memory ran out on one item alone
        self._decoder = loaded.model.get_decoder()
        if self._decoder is loaded.model:  # an older model class: ask by its prefix
            self._decoder = loaded.model.base_model
        # None: not checked yet
        self._head_is_separable: bool | None = None if self._decoder is not loaded.model else False

    @property
    def busy(self) -> bool:
        """Whether there is something to score."""
        return bool(self._waiting)

    @property
    def items(self) -> list[ScoreItem]:
        """Those without a score."""
        return list(self._waiting)

    def add(self, item: ScoreItem) -> None:
        """Queues an item."""
        self._waiting.append(item)

    def cancel(self) -> None:
        """Forgets every item."""
        self._waiting.clear()

    @torch.no_grad()
    def step(self) -> list[dict[str, Any]]:
        """Scores one batch; returns messages."""
        batch = take_group(self._waiting, self._limit, _BATCH_TOKENS)
        self._send({"type": "started", "ids": [item.number for item in batch]})
        sums: list[float] | None
        try:
            sums = self.score(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            sums = None
        if sums is None:  # outside of the handler, whose traceback keeps the tensors alive
            torch.cuda.empty_cache()  # so that a smaller batch finds room in one piece
            if len(batch) == 1 and self.short_of_memory:
                self.short_of_memory = False
                size = len(batch[0].sequence)
                return [failure(batch[0], f"Out of memory on this request alone ({size} tokens); shorten it.")]
            self.short_of_memory = len(batch) == 1  # a last try follows, once other models have made room
            self._limit = max(1, len(batch) // 2)
            self._waiting.extendleft(reversed(batch))
            return []
        self.short_of_memory = False
        self._limit = min(self._batch_size, self._limit + 1)
        return [
            {"type": "score", "id": item.number, "logprob": value, "num_tokens": len(item.response)}
            if value == value and abs(value) != float("inf")
            else failure(item, "The score is not a finite number; try another dtype.")
            for item, value in zip(batch, sums, strict=True)
        ]

    def score(self, batch: list[ScoreItem]) -> list[float]:
        """Sums of log-probabilities in nats, one per item."""
        sequences = [item.sequence for item in batch]
        if self._head_is_separable is False:
            return [self._score_whole(item) for item in batch]
        width = max(map(len, sequences))
        device = self.loaded.device
        ids_BT = torch.tensor([sequence + [0] * (width - len(sequence)) for sequence in sequences], device=device)
        lengths_B1 = torch.tensor([[len(sequence)] for sequence in sequences], device=device)
        columns_T = torch.arange(width, device=device)
        mask_BT = (columns_T < lengths_B1).long()
        with _captured(self._decoder) as captured:
            output = self.loaded.forward(ids_BT, mask_BT, columns_T.expand_as(ids_BT), None)
        if not captured:
            self._head_is_separable = False
            return self.score(batch)
        decoded = captured[0]
        hidden_BTD = decoded.last_hidden_state
        if self._head_is_separable is None:
            self._head_is_separable = self._check_head(decoded, output.logits)
            if not self._head_is_separable:
                return self.score(batch)
        del output
        # The token at column t is foretold by the hidden state at column t - 1.
        places = [
            (row, column) for row, item in enumerate(batch) for column in range(len(item.prompt), len(item.sequence))
        ]
        rows_N, columns_N = torch.tensor(places, device=device).unbind(1)
        targets_N = ids_BT[rows_N, columns_N]
        temperatures_B1 = torch.tensor([[item.temperature] for item in batch], device=device)
        sums_B = torch.zeros(len(batch), dtype=torch.float64, device=device)
        for start in range(0, len(places), _HEAD_POSITIONS):
            chunk = slice(start, start + _HEAD_POSITIONS)
            logits_CV = self._head(decoded, hidden_BTD[rows_N[chunk], columns_N[chunk] - 1])
            logits_CV = logits_CV.float().div_(temperatures_B1[rows_N[chunk]])
            sums_B.index_add_(0, rows_N[chunk], _logprobs(logits_CV, targets_N[chunk]))
        return sums_B.tolist()

    def _head(self, decoded: ModelOutput, hidden_CD: Tensor) -> Tensor:
        """The model's own forward with these hidden states put in place of its decoder's output; logits (C, V)."""
        decoder, hidden_1CD = self._decoder, hidden_CD[None]
        own = decoder.__dict__.get("forward")
        # The rest of the output too: a mixture of experts looks at its router's part.
        output = type(decoded)(**{**decoded, "last_hidden_state": hidden_1CD})
        decoder.forward = lambda *args, **kwargs: output
        try:
            ids_1C = torch.zeros(hidden_1CD.shape[:2], dtype=torch.long, device=hidden_1CD.device)
            return self.loaded.model(input_ids=ids_1C, use_cache=False).logits[0]
        finally:
            del decoder.forward
            if own is not None:
                decoder.forward = own

    def _check_head(self, decoded: ModelOutput, logits_BTV: Tensor) -> bool:
        """Whether `_head` gives the logits that the model gave."""
        try:
            ours_BV = self._head(decoded, decoded.last_hidden_state[:, -1]).float()
        except (TypeError, ValueError, AttributeError, KeyError, IndexError):
            return False
        theirs_BV = logits_BTV[:, -1].float()
        # A wrong head is off by far more than a matrix product's rounding at another shape.
        return ours_BV.shape == theirs_BV.shape and torch.allclose(
            ours_BV, theirs_BV, rtol=2e-2, atol=2e-2, equal_nan=True
        )

    def _score_whole(self, item: ScoreItem) -> float:
        """One row with all logits of its response: for models whose head cannot be called apart."""
        ids_1T = torch.tensor([item.sequence], device=self.loaded.device)
        count = len(item.response)
        keep = {"logits_to_keep": count + 1} if "logits_to_keep" in self.loaded.accepts else {}
        logits_TV = self.loaded.model(input_ids=ids_1T, use_cache=False, **keep).logits[0, -count - 1 : -1]
        chunks = zip(logits_TV.split(_HEAD_POSITIONS), ids_1T[0, -count:].split(_HEAD_POSITIONS), strict=True)
        warmth = item.temperature
        return sum(float(_logprobs(logits_CV.float().div_(warmth), targets_C).sum()) for logits_CV, targets_C in chunks)


def _logprobs(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """log p of the targets in float64, of shape (C,)."""
    logits_CV = logits_CV.float()
    return logits_CV.gather(-1, targets_C[:, None])[:, 0].double() - logits_CV.logsumexp(-1).double()


@contextmanager
def _captured(decoder: torch.nn.Module) -> Iterator[list[ModelOutput]]:
    """Collects the decoder's outputs while the block runs; those that are plain tuples are left out."""
    captured: list[ModelOutput] = []

    def keep(_: torch.nn.Module, __: tuple, output: Any) -> None:
        if isinstance(output, ModelOutput) and "last_hidden_state" in output:
            captured.append(output)

    handle = decoder.register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()
