"""Batched generation with one loop: sorted by length, finished rows dropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from .tokenizer import END, chat_text, encode


@torch.inference_mode()
def generate_ids(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_id: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    batch: int = 160,
) -> list[list[int]]:
    """Continue each prompt until ``stop_id`` (which is left out) or ``max_new_tokens``.

    Args:
        model: a causal language model in evaluation mode.
        prompts: token ids.
        stop_id: ends a completion.
        max_new_tokens: longest completion.
        temperature: 0 is greedy.
        seed: of the sampling.
        batch: rows per batch.

    Returns:
        The completions, in the order of ``prompts``.
    """
    generator = torch.Generator().manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    completions: list[list[int]] = [[] for _ in prompts]
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        width = max(len(prompts[row]) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, width - len(prompts[row]) :] = torch.tensor(prompts[row])
            mask[at, width - len(prompts[row]) :] = 1
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        cache = DynamicCache()
        for _ in range(max_new_tokens):
            hidden = model.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            ).last_hidden_state[:, -1]
            logits = model.lm_head(hidden)
            if temperature == 0:
                chosen = logits.argmax(-1)
            else:
                chances = torch.softmax(logits / temperature, -1)
                chosen = torch.multinomial(chances, 1, generator=generator)[:, 0]
            alive = (chosen != stop_id).nonzero()[:, 0]
            for at in alive.tolist():
                completions[rows[at]].append(int(chosen[at]))
            if len(alive) == 0:
                break
            if len(alive) < len(rows):
                rows = [rows[at] for at in alive.tolist()]
                cache.batch_select_indices(alive)
                chosen, mask, positions = chosen[alive], mask[alive], positions[alive]
            ids = chosen[:, None]
            mask = torch.cat((mask, torch.ones(len(rows), 1, dtype=torch.long)), 1)
            positions = positions[:, -1:] + 1
    return completions


def respond(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int = 160,
) -> list[str]:
    """Answer user messages with whole responses, thought included."""
    inputs = [encode(tokenizer, chat_text(prompt)) for prompt in prompts]
    return complete(model, tokenizer, inputs, max_new_tokens, temperature, seed)


def complete(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Continue token ids and decode what is new."""
    stop_id = tokenizer.convert_tokens_to_ids(END)
    outputs = generate_ids(model, inputs, stop_id, max_new_tokens, temperature, seed)
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids in outputs]
