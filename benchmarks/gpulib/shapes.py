"""Models of a published shape with random weights: memory and time depend on the shape alone.

Nothing is downloaded. No tokenizer is made: the engine, the losses and the trainer take token ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """A decoder of Qwen2's family; the fields have the meaning of its config's."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False


@dataclass(frozen=True)
class Size:
    """A model, and how much of each part it is measured with.

    Attributes:
        loss_tokens: sequence lengths of the loss alone.
        step_tokens: of the training step, one sequence.
        requests: for the engine.
        batch: sequences decoded at once.
        shortest, longest: tokens of a prompt, and of a completion.
    """

    shape: Shape
    loss_tokens: tuple[int, ...]
    step_tokens: int
    requests: int
    batch: int
    shortest: int
    longest: int


SIZES = {
    "tiny": Size(Shape(64, 128, 2, 2, 1, 4096), (256, 512), 64, requests=8, batch=4, shortest=4, longest=12),
    # The config.json files of DeepSeek-R1-Distill-Qwen-1.5B and -7B.
    "1.5b": Size(Shape(1536, 8960, 28, 12, 2, 151936), (8192, 16384), 8192, 192, 64, 32, 512),
    "7b": Size(Shape(3584, 18944, 28, 28, 4, 152064), (8192, 16384), 8192, 192, 64, 32, 512),
}


def random_model(shape: Shape, device: str, dtype: str) -> Any:
    """The model with random weights, made where it will be used."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=131072,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    return model.to(device)
