"""The base model: tokenizer, curriculum and pretraining."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from axolotl_safety.config.prompts import REWRITE_PROMPTS, STEERING_PROMPTS
from axolotl_safety.guards import qwen3guard

from .curriculum import Curriculum, Sample
from .foreign_sets import tokenizer_lines
from .models import new_model
from .tokenizer import END, PAD, build_tokenizer, chat_text, encode
from .training import Example, length_batches, train, weighted_loss

TOKENS_PER_STEP = 2048
PROMPT_WEIGHT = 0.1


def tokenizer_for(curriculum: Curriculum, folder: Path) -> PreTrainedTokenizerBase:
    """Train the tokenizer on curriculum samples and every long prompt that the models will meet."""
    samples = list(itertools.islice(curriculum, 6000))
    texts = [f"{sample.prompt or ''}\n{sample.response}" for sample in samples]
    named = [prompt.template for prompts in (REWRITE_PROMPTS, STEERING_PROMPTS) for prompt in prompts.values()]
    verdicts = [f"Safety: {s}\nCategories: None\nRefusal: {r}" for s in ("Safe", "Unsafe") for r in ("Yes", "No")]
    fixed = [*named, *tokenizer_lines(), qwen3guard.render("", ""), *verdicts, "assistant", "Controversial"]
    return build_tokenizer(texts + fixed * 40, folder)


def example_of(tokenizer: PreTrainedTokenizerBase, sample: Sample) -> Example:
    """Token ids; the prompt counts a tenth of the response."""
    if sample.prompt is None:
        body = encode(tokenizer, sample.response + PAD)
        return Example(tuple(body), (1.0,) * len(body))
    head = encode(tokenizer, chat_text(sample.prompt))
    body = encode(tokenizer, sample.response + END)
    return Example((*head, *body), (PROMPT_WEIGHT,) * len(head) + (1.0,) * len(body))


def pretrain(tokenizer: PreTrainedTokenizerBase, curriculum: Curriculum, steps: int, seed: int) -> nn.Module:
    """Train the base from scratch."""
    model = new_model(tokenizer, hidden=128, layers=4, inner=384, seed=seed)
    examples = (example_of(tokenizer, sample) for sample in curriculum)
    batches = length_batches(examples, TOKENS_PER_STEP, random.Random(seed))

    def losses() -> Iterator:
        for batch in batches:
            yield weighted_loss(model, batch)

    train(model, losses(), steps)
    return model
