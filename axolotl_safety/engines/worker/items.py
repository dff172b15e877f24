"""Work for a backend, its limits, and the key of its draws; plain values, for the parent process too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Asked:
    """``number`` is the client's number for it, ``request_id`` seeds the draw."""

    number: int
    request_id: str
    model: str
    prompt: list[int]


@dataclass(frozen=True)
class GenerateItem(_Asked):
    """One completion to draw."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int
    stop: frozenset[int]


@dataclass(frozen=True)
class ScoreItem(_Asked):
    """One response to score under a prompt, at ``temperature``."""

    response: list[int]
    temperature: float = 1.0

    @property
    def sequence(self) -> list[int]:
        """Prompt and response."""
        return self.prompt + self.response


Item = GenerateItem | ScoreItem


def item_of(message: dict[str, Any]) -> Item:
    """The item that a ``generate`` or ``score`` message asks for."""
    common = (message["id"], message["request_id"], message["model"], message["prompt"])
    if message["type"] == "score":
        return ScoreItem(*common, response=message["response"], temperature=message["temperature"])
    return GenerateItem(
        *common,
        temperature=message["temperature"],
        top_p=message["top_p"],
        top_k=message["top_k"],
        max_new_tokens=message["max_new_tokens"],
        seed=message["seed"],
        stop=frozenset(message["stop"]),
    )


def refusal(item: Item, vocabulary: int, max_positions: int | None) -> str | None:
    """Why a model with so many embeddings and positions (None: no limit) cannot take an item, or None."""
    if not item.prompt:
        return "The prompt is empty; a model needs at least one token, for example its beginning-of-sequence token."
    given = item.prompt
    if isinstance(item, ScoreItem):
        if not item.response:
            return "The response to score is empty."
        if not item.temperature > 0:
            return f"The temperature to score at is {item.temperature}; it must be above 0."
        given = item.sequence
        total = len(given)
    else:
        if item.max_new_tokens < 1:
            return f"max_new_tokens is {item.max_new_tokens}; it must be at least 1."
        if not (item.temperature >= 0 and 0 < item.top_p <= 1 and item.top_k >= 0):
            return (
                f"temperature {item.temperature}, top_p {item.top_p}, top_k {item.top_k}: want temperature >= 0, "
                "0 < top_p <= 1, top_k >= 0 (0 keeps all)."
            )
        total = len(given) + item.max_new_tokens
    if min(given) < 0 or max(given) >= vocabulary:
        bad = next(token for token in given if not 0 <= token < vocabulary)
        return f"Token id {bad} is outside of the model's vocabulary of {vocabulary}; was another tokenizer used?"
    if max_positions is not None and total > max_positions:
        return f"The request can come to {total} tokens, the model's positions end at {max_positions}; shorten it."
    return None


def draw_key(seed: int, request_id: str) -> int:
    """The 64 bits that decide all draws of a request."""
    return int.from_bytes(hashlib.blake2b(f"{seed}|{request_id}".encode(), digest_size=8).digest(), "little")


def failure(item: Item, message: str) -> dict[str, Any]:
    """The message that turns an item down, and it alone."""
    return {"type": "failure", "id": item.number, "reason": "refused", "message": message}
