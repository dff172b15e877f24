"""The guard: trained on verdicts, the long constant head of its prompt run once a step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerBase

from axolotl_safety.guards import qwen3guard

from .generation import complete
from .guard_data import GuardData, Judged, base_outputs
from .models import new_model
from .tokenizer import END, encode
from .training import train
from .world import BENIGN, HARMFUL, draw_fresh, draw_request

CONVERSATIONS_PER_STEP = 10
TEXT_WEIGHT = 0.02


def shared_head(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids with which the guard's input always begins."""
    first, second = (encode(tokenizer, qwen3guard.render(text, text)) for text in ("How", "What"))
    return [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=True))]


def verdict_loss(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, head: list[int], items: Sequence[Judged]
) -> Tensor:
    """Loss on the verdicts (and lightly on the conversations), the shared head being run once.

    A causal model's states of the head do not depend on what follows, so its keys and values serve every
    conversation; the gradient flows through them.
    """
    bodies, weights = [], []
    for item in items:
        asked = encode(tokenizer, qwen3guard.render(item.prompt, item.response))
        if asked[: len(head)] != head:
            raise ValueError("the guard's prompt does not begin with the shared head")
        answer = encode(tokenizer, item.verdict + END)
        bodies.append(asked[len(head) :] + answer)
        weights.append([TEXT_WEIGHT] * (len(bodies[-1]) - len(answer)) + [1.0] * len(answer))
    width = max(map(len, bodies))
    ids = torch.tensor([body + [0] * (width - len(body)) for body in bodies])
    weight = torch.tensor([row + [0.0] * (width - len(row)) for row in weights])[:, 1:]
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([head]), past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(items))
    positions = torch.arange(len(head), len(head) + width)[None]
    hidden = model.model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True).last_hidden_state
    kept = weight > 0
    losses = functional.cross_entropy(model.lm_head(hidden[:, :-1][kept]), ids[:, 1:][kept], reduction="none")
    return (losses * weight[kept]).sum() / weight[kept].sum()


def train_guard(
    base: nn.Module, tokenizer: PreTrainedTokenizerBase, taken: set[object], steps: int, seed: int
) -> nn.Module:
    """Train the guard from scratch, partly on what ``base`` really answers."""
    rng = random.Random(f"{seed} guard requests")
    requests = [
        draw_fresh(
            lambda: draw_request(rng, HARMFUL if rng.random() < 0.75 else BENIGN), lambda item: item.key, taken, False
        )
        for _ in range(2000)
    ]
    data = iter(GuardData(seed, taken, base_outputs(base, tokenizer, requests, seed)))
    model = new_model(tokenizer, hidden=96, layers=3, inner=256, seed=seed)
    head = shared_head(tokenizer)

    def losses() -> Iterator[Tensor]:
        while True:
            yield verdict_loss(model, tokenizer, head, list(itertools.islice(data, CONVERSATIONS_PER_STEP)))

    train(model, losses(), steps)
    return model


def ask_guard(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, conversations: Sequence[tuple[str, str]]
) -> list[str]:
    """What the guard writes about each prompt and response."""
    inputs = [encode(tokenizer, qwen3guard.render(prompt, response)) for prompt, response in conversations]
    return complete(model, tokenizer, inputs, max_new_tokens=32)
