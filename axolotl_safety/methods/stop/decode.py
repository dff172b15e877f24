"""Greedy decoding with the model that is being trained, which is left exactly as it was."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig

from axolotl_safety.methods.kl.model import evaluating

LOG = logging.getLogger(__name__)
BATCH = 64  # prompts at once; halved where memory runs out


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; then every module's own mode and every random generator's state as before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        with evaluating(model):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def greedy(
    model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int], limit: int, batch: int = BATCH
) -> list[tuple[int, ...]]:
    """Completions, each up to and with the token that ends it, or of ``limit`` tokens.

    Raises:
        torch.OutOfMemoryError: one prompt alone does not fit beside what training holds.
    """
    found: list[tuple[int, ...]] = []
    while len(found) < len(prompts):
        part = prompts[len(found) : len(found) + batch]
        try:
            found += _batch(model, part, stops, limit)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch = max(1, batch // 2)
            LOG.warning("safety.stop: out of memory with %d prompts at once; going on with %d", len(part), batch)
            torch.cuda.empty_cache()
    return found


def _batch(model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int], limit: int) -> list[tuple[int, ...]]:
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids_BT = torch.full((len(prompts), width), stops[0])
    mask_BT = torch.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):  # padded on the left: what is written stands behind every prompt
        ids_BT[row, width - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, width - len(prompt) :] = 1
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,  # which the model's own config says no to where activations are recomputed
        max_new_tokens=limit,
        eos_token_id=list(stops),
        pad_token_id=stops[0],
    )
    asked = {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}
    with _without_defaults(model):
        made_BT = model.generate(**asked, generation_config=settings)
    ends = frozenset(stops)
    return [_ended(row[width:], ends) for row in made_BT.tolist()]


@contextmanager
def _without_defaults(model: nn.Module) -> Iterator[None]:
    """Without what the checkpoint's generation_config.json says: ``generate`` takes from there whatever it is not told.

    A ``repetition_penalty`` (Qwen2.5 has one) changes what is decoded, and by the padding, which it counts as said.
    """
    held = [module for module in model.modules() if "generation_config" in vars(module)]  # PEFT's and the model's own
    own = [module.generation_config for module in held]
    try:
        for module in held:
            module.generation_config = GenerationConfig()
        yield
    finally:
        for module, config in zip(held, own, strict=True):
            module.generation_config = config


def room(model: Any, prompts: Iterable[Sequence[int]]) -> int | None:
    """Tokens that the model's window leaves behind the longest prompt; None where its config does not say."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if window is None else window - max(map(len, prompts))


def _ended(token_ids: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    place = next((place for place, token in enumerate(token_ids) if token in ends), len(token_ids))
    return tuple(token_ids[: place + 1])
